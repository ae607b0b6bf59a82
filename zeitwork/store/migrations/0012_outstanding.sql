-- What hosts have yet to carry out is found by index however much runs, and networks remember how far they were given.

-- It served on, and its successor has taken over: nothing else tells it from what is wanted there.
alter table placements add column released boolean not null default false;
create index placements_released on placements (id) where released and state <> 'removed';
create index placements_assigned on placements (id) where state = 'assigned';
-- What is stopped or terminated holds nothing but what is lost, for which there is an index.
create index instances_ending on instances (id) where desired <> 'running' and state not in ('stopped', 'terminated');

-- How far the addresses of a network were given that its host has no more: whoever has it next goes on from there, so
-- that what others remember of those addresses, or what still runs on a host that was given up, is not met at once.
create table freed_pools (
    network cidr primary key,
    next_offset bigint not null
);
