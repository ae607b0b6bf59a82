-- Of what must never run twice there is never a second placement, whatever code asks for one.

alter table placements
    -- No other of its instance may be beside it. Ends when an operator accepts that two may run.
    add column exclusive boolean not null default false,
    -- Kept because somebody asked for its move, which goes on whatever becomes of its host.
    add column asked boolean not null default false,
    add constraint placements_asked check (kept or not asked),
    add constraint placements_kept_exclusive check (not (kept and exclusive));
create unique index placements_exclusive on placements (instance_id) where exclusive and state <> 'removed';
-- One serves on at a time, until its successor runs.
create unique index placements_one_kept on placements (instance_id) where kept;
create index placements_lost on placements (node_id) where lost_at is not null and state <> 'removed';
create index nodes_leaving on nodes (id) where state in ('down', 'draining');

create function placements_set_exclusive() returns trigger language plpgsql as $$
begin
    new.exclusive := (select singleton from instances where id = new.instance_id);
    return new;
end
$$;
create trigger placements_exclusive before insert on placements
    for each row execute function placements_set_exclusive();

-- Only what is on a dead host may have another beside it, and that can't be taken back.
create function placements_check_exclusive() returns trigger language plpgsql as $$
begin
    if new.exclusive or new.lost_at is null then
        raise exception 'placement %: that it is the only one of its instance can end only while it is lost', old.id
            using errcode = 'ZW004';
    end if;
    return new;
end
$$;
create trigger placements_exclusive_ends before update on placements
    for each row when (old.exclusive <> new.exclusive) execute function placements_check_exclusive();
