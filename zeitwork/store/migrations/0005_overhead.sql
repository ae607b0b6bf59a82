-- What virtual machines' monitors really take beside their guests' memory. Placements keep what they were admitted with;
-- what the running ones take beyond that is not free.

alter table nodes
    -- KiB that monitors of each hypervisor were seen to need: what new placements are charged follows from it.
    add column overhead_peaks jsonb not null default '{}' check (jsonb_typeof(overhead_peaks) = 'object'),
    -- MiB: of so many monitors together, and how much of that is beyond what their placements hold.
    add column overhead_measured integer not null default 0 check (overhead_measured >= 0),
    add column overhead_monitors integer not null default 0 check (overhead_monitors >= 0),
    add column overhead_excess integer not null default 0 check (overhead_excess >= 0);

alter table resource_samples
    add column overhead_allocated integer not null default 0 check (overhead_allocated >= 0),
    add column overhead_measured integer not null default 0 check (overhead_measured >= 0);

-- As before, but what monitors take beyond their charge counts as used.
create or replace function placements_check_capacity() returns trigger language plpgsql as $$
declare
    node nodes%rowtype;
    vcpu_used bigint;
    memory_used bigint;
begin
    select * into node from nodes where id = new.node_id for no key update;
    if node.vcpu_capacity is null then
        raise exception using errcode = 'ZW001',
            message = format('%s: its capacity is not known yet', node.hostname);
    end if;
    new.memory_overhead := node.memory_overhead;
    select coalesce(sum(vcpu), 0), coalesce(sum(memory + memory_overhead), 0) + node.overhead_excess
        into vcpu_used, memory_used
        from placements where node_id = new.node_id and state <> 'removed';
    if vcpu_used + new.vcpu > node.vcpu_capacity then
        raise exception using errcode = 'ZW001', message = format(
            '%s: %s vCPU asked for, %s of %s free',
            node.hostname, new.vcpu, greatest(0, node.vcpu_capacity - vcpu_used), node.vcpu_capacity);
    end if;
    if memory_used + new.memory + new.memory_overhead > node.memory_capacity then
        raise exception using errcode = 'ZW001', message = format(
            '%s: %s MiB asked for (%s MiB of them for the VMM), %s of %s MiB free',
            node.hostname, new.memory + new.memory_overhead, new.memory_overhead,
            greatest(0, node.memory_capacity - memory_used), node.memory_capacity);
    end if;
    return new;
end
$$;
