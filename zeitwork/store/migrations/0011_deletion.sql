-- What becomes of an instance's volumes when it is deleted. There are none yet; what people say about them is kept.

alter table instances add column drop_volumes boolean not null default false;
alter table instances add constraint instances_drop_volumes check (not drop_volumes or desired = 'terminated');
