-- Groups of instances, what instances ask of hosts, and what becomes of placements whose host is dead or emptied.

create table instance_groups (
    id uuid primary key,
    name text not null check (name <> ''),
    image_id uuid not null references images,
    -- What each member is made of: the fields of an instance but its name and id.
    template jsonb not null check (jsonb_typeof(template) = 'object'),
    replicas integer not null check (replicas between 0 and 1000),
    generation bigint not null default 1 check (generation > 0),
    -- How often in a row members failed for good, and when slots of those may be filled again.
    failures integer not null default 0 check (failures >= 0),
    retry_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    -- Deleted, and without members.
    gone_at timestamptz,
    check (gone_at is null or deleted_at is not null)
);
create unique index instance_groups_name on instance_groups (name) where gone_at is null;
create index instance_groups_image on instance_groups (image_id) where gone_at is null;

alter table instances
    add column group_id uuid references instance_groups,
    add column slot integer check (slot >= 0),
    add column priority smallint not null default 50 check (priority between 0 and 100),
    -- Two of it must never run at once.
    add column singleton boolean not null default false,
    add column requirements jsonb not null default '{}' check (jsonb_typeof(requirements) = 'object'),
    -- Since when it wants to be placed and is not.
    add column pending_since timestamptz not null default now(),
    add constraint instances_group check (num_nulls(group_id, slot) in (0, 2));
create unique index instances_slot on instances (group_id, slot) where state <> 'terminated';

alter table placements
    -- Serves on, although a newer generation is wanted, until that one runs.
    add column kept boolean not null default false,
    -- Its host was found dead. It holds what it holds until the host confirms that nothing of it is left.
    add column lost_at timestamptz,
    add constraint placements_kept check (not kept or state <> 'removed');

alter table nodes
    drop constraint nodes_desired_check,
    add constraint nodes_desired_check check (desired in ('ready', 'cordoned', 'draining')),
    add column labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object'),
    add column taints jsonb not null default '[]' check (jsonb_typeof(taints) = 'array'),
    add column hypervisor text,
    add column architecture text not null default 'x86_64',
    -- The share of the last minutes in which its tasks waited for a CPU.
    add column pressure real not null default 0 check (pressure between 0 and 1),
    -- While it is down: since when, and from when on what ran there is replaced.
    add column down_since timestamptz,
    add column replace_after timestamptz,
    add constraint nodes_down check (num_nulls(down_since, replace_after) in (0, 2));

-- Each transaction of a leader asks for the highest.
create index nodes_epoch_seen on nodes (epoch_seen);

-- Which hosts have which image in their cache: a hint for the scheduler.
create table node_images (
    node_id uuid not null references nodes on delete cascade,
    image_id uuid not null references images on delete cascade,
    primary key (image_id, node_id)
);
create index node_images_node on node_images (node_id);

alter table events
    drop constraint events_subject_kind_check,
    add constraint events_subject_kind_check check (subject_kind in ('instance', 'placement', 'image', 'node', 'region',
        'cluster', 'snapshot', 'group'));

-- Placing. What wants to be placed is found by this index however much runs: whatever is placed is observed as of its
-- generation in the same transaction, unless an older placement serves on meanwhile.
create index instances_unplaced on instances ((- priority), id)
    where desired = 'running' and observed_generation < generation;

create function instances_set_pending_since() returns trigger language plpgsql as $$
begin
    new.pending_since := now();
    return new;
end
$$;
create trigger instances_pending_since before update of generation on instances
    for each row when (new.generation <> old.generation) execute function instances_set_pending_since();

-- A placement is charged what its node's monitors take now.
create function placements_set_overhead() returns trigger language plpgsql as $$
begin
    new.memory_overhead := coalesce((select memory_overhead from nodes where id = new.node_id), 0);
    return new;
end
$$;
create trigger placements_overhead before insert on placements
    for each row when (new.memory_overhead = 0) execute function placements_set_overhead();

-- As before, but once for a statement with any number of placements. The locks on their nodes make concurrent ones take
-- turns, and the second statement sees what was committed before they were had.
drop trigger placements_capacity on placements;
create or replace function placements_check_capacity() returns trigger language plpgsql as $$
declare
    broken record;
begin
    -- In one order everywhere, or two of these could wait for each other.
    perform from nodes where id in (select node_id from placed where state <> 'removed') order by id
        for no key update;
    select n.hostname, n.vcpu_capacity, n.memory_capacity, n.memory_overhead, asked.*,
        used.vcpu - asked.vcpu as vcpu_used, used.memory - asked.memory + n.overhead_excess as memory_used
        into broken
        from (select node_id, sum(vcpu) as vcpu, sum(memory + memory_overhead) as memory,
                sum(memory_overhead) as overhead, min(memory_overhead) as least
            from placed where state <> 'removed' group by node_id) asked
        join nodes n on n.id = asked.node_id
        cross join lateral (select sum(vcpu) as vcpu, sum(memory + memory_overhead) as memory
            from placements where node_id = n.id and state <> 'removed') used
        where n.vcpu_capacity is null or asked.least < n.memory_overhead or used.vcpu > n.vcpu_capacity
            or used.memory + n.overhead_excess > n.memory_capacity
        order by n.id limit 1;
    if not found then
        return null;
    elsif broken.vcpu_capacity is null then
        raise exception using errcode = 'ZW001',
            message = format('%s: its capacity is not known yet', broken.hostname);
    elsif broken.least < broken.memory_overhead then
        raise exception using errcode = 'ZW001', message = format(
            '%s: a placement is charged %s MiB for its VMM, which takes %s MiB',
            broken.hostname, broken.least, broken.memory_overhead);
    elsif broken.vcpu_used + broken.vcpu > broken.vcpu_capacity then
        raise exception using errcode = 'ZW001', message = format(
            '%s: %s vCPU asked for, %s of %s free', broken.hostname, broken.vcpu,
            greatest(0, broken.vcpu_capacity - broken.vcpu_used), broken.vcpu_capacity);
    else
        raise exception using errcode = 'ZW001', message = format(
            '%s: %s MiB asked for (%s MiB of them for the VMM), %s of %s MiB free', broken.hostname, broken.memory,
            broken.overhead, greatest(0, broken.memory_capacity - broken.memory_used), broken.memory_capacity);
    end if;
end
$$;
create trigger placements_capacity after insert on placements
    referencing new table as placed for each statement execute function placements_check_capacity();

-- A lease is checked to be of a pool of its node by one key, not by two of which neither says so; and not by the
-- network, which is looked up in the index that keeps pools apart, ten times as slowly. A pool's row changes with each
-- address that is given: with room beside it no index has to follow.
alter table leases
    drop constraint leases_pool_fkey,
    drop constraint leases_node_id_fkey,
    add foreign key (node_id, family) references pools (node_id, family);
alter table pools set (fillfactor = 50);
