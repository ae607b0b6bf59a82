-- The first schema. Desired, placed and observed state have columns and generations of their own. What must never be
-- wrong (an address used twice, a host given more than it has) is refused here, not only in code.

create table cluster (
    singleton boolean primary key default true check (singleton),
    id uuid not null,
    created_at timestamptz not null default now()
);

create table regions (
    id uuid primary key,
    name text not null unique check (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    v6 cidr not null check (family(v6) = 6 and masklen(v6) = 48),
    v4 cidr not null check (family(v4) = 4 and masklen(v4) <= 30),
    created_at timestamptz not null default now(),
    -- Two regions may use the same IPv4 network (their hosts never route to each other by it); IPv6 is unique.
    exclude using gist (v6 inet_ops with &&)
);

-- generation counts the starts of the host's process; desired_generation the changes of what people want of it.
create table nodes (
    id uuid primary key,
    host_id uuid unique,
    hostname text not null check (hostname <> ''),
    region_id uuid not null references regions,
    ip_address inet,
    ipv6 boolean not null default true,
    version text not null default '',
    desired text not null default 'ready' check (desired in ('ready', 'draining')),
    desired_generation bigint not null default 1,
    state text not null default 'booting'
        check (state in ('booting', 'ready', 'draining', 'down', 'terminated', 'error', 'unknown')),
    reason text not null default '',
    generation bigint not null default 0 check (generation >= 0),
    boot_id text,
    vcpu_total integer,
    memory_total integer,
    vcpu_reserved integer,
    memory_reserved integer,
    vcpu_overcommit double precision,
    memory_overcommit double precision,
    memory_overhead integer,
    -- The same double precision arithmetic as actors.model.resources.Capacity: equal results, rounded down.
    vcpu_capacity integer generated always as
        (floor(greatest(0, vcpu_total - vcpu_reserved) * vcpu_overcommit)::integer) stored,
    memory_capacity integer generated always as
        (floor(greatest(0, memory_total - memory_reserved) * memory_overcommit)::integer) stored,
    last_seen_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check (vcpu_total >= 0 and memory_total >= 0 and vcpu_reserved >= 0 and memory_reserved >= 0
        and vcpu_overcommit > 0 and memory_overcommit > 0 and memory_overhead >= 0),
    check (num_nonnulls(vcpu_total, memory_total, vcpu_reserved, memory_reserved, vcpu_overcommit,
        memory_overcommit, memory_overhead) in (0, 7))
);
create index nodes_state on nodes (state);
create unique index nodes_expected on nodes (hostname) where host_id is null and state <> 'terminated';

-- Addresses are offsets from first to last in network; next is where the search for a free one begins.
create table pools (
    network cidr primary key,
    node_id uuid not null references nodes,
    family smallint not null generated always as (family(network)) stored,
    first_offset bigint not null,
    last_offset bigint not null,
    next_offset bigint not null,
    unique (node_id, family),
    exclude using gist (network inet_ops with &&),
    check (first_offset >= 0 and first_offset <= last_offset and next_offset between first_offset and last_offset + 1)
);

create table images (
    id uuid primary key,
    source text not null check (source <> ''),
    status text not null default 'pending' check (status in ('pending', 'building', 'ready', 'failed')),
    digest text,
    config jsonb,
    size bigint not null default 0 check (size >= 0),
    percent smallint not null default 0 check (percent between 0 and 100),
    message text not null default '',
    error text,
    error_field text,
    error_fix text,
    node_id uuid references nodes,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    check (status <> 'ready' or (digest is not null and config is not null)),
    check ((status = 'failed') = (error is not null)),
    check (status <> 'building' or node_id is not null)
);
create index images_pending on images (id) where status = 'pending' and deleted_at is null;

create table image_history (
    id bigint generated always as identity primary key,
    image_id uuid not null references images on delete cascade,
    at timestamptz not null default clock_timestamp(),
    status text not null check (status in ('pending', 'building', 'ready', 'failed')),
    message text not null default '',
    who text not null
);
create index image_history_image on image_history (image_id, id);

create table instances (
    id uuid primary key,
    name text check (name <> ''),
    image_id uuid not null references images,
    pinned_node_id uuid references nodes,
    vcpu integer not null check (vcpu > 0),
    memory integer not null check (memory > 0),
    disk integer not null check (disk > 0),
    default_port integer not null check (default_port between 1 and 65535),
    environment jsonb not null default '{}' check (jsonb_typeof(environment) = 'object'),
    command jsonb not null default '[]' check (jsonb_typeof(command) = 'array'),
    stop_timeout double precision not null check (stop_timeout >= 0),
    -- Desired. generation grows with each start and restart.
    desired text not null default 'running' check (desired in ('running', 'stopped', 'terminated')),
    generation bigint not null default 1 check (generation > 0),
    stop_force boolean not null default false,
    stop_wait double precision check (stop_wait >= 0),
    -- Observed. observed_generation is the generation that state and what follows tell of.
    state text not null default 'pending' check (state in ('pending', 'starting', 'running', 'paused', 'stopping',
        'stopped', 'failed', 'crash_loop', 'unknown', 'terminated')),
    observed_generation bigint not null default 0 check (observed_generation >= 0),
    reason text not null default '',
    outcome text check (outcome in ('exited', 'signaled', 'stopped', 'killed', 'start_failed', 'vmm_died', 'panic',
        'unknown')),
    exit_status integer,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    state_changed_at timestamptz not null default now(),
    check (observed_generation <= generation),
    check (state <> 'terminated' or desired = 'terminated')
);
create unique index instances_name on instances (name) where state <> 'terminated';
create index instances_image on instances (image_id) where state <> 'terminated';
create index instances_alive on instances (id) where state <> 'terminated';

create table placements (
    id uuid primary key,
    instance_id uuid not null references instances,
    generation bigint not null check (generation > 0),
    node_id uuid not null references nodes,
    vcpu integer not null check (vcpu > 0),
    memory integer not null check (memory > 0),
    disk integer not null check (disk > 0),
    memory_overhead integer not null default 0 check (memory_overhead >= 0),
    v4 inet not null check (family(v4) = 4),
    v6 inet check (family(v6) = 6),
    state text not null default 'assigned'
        check (state in ('assigned', 'preparing', 'starting', 'running', 'stopping', 'removed')),
    state_version bigint not null default 1,
    reason text not null default '',
    outcome text check (outcome in ('exited', 'signaled', 'stopped', 'killed', 'start_failed', 'vmm_died', 'panic',
        'unknown')),
    exit_status integer,
    hypervisor text,
    pid integer,
    boot_id text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    running_at timestamptz,
    removed_at timestamptz,
    unique (instance_id, generation),
    check ((state = 'removed') = (removed_at is not null))
);
create index placements_live on placements (node_id) include (vcpu, memory, memory_overhead) where state <> 'removed';
create index placements_instance_live on placements (instance_id) where state <> 'removed';

-- An address is a row here from its lease until its rest is over: the primary key is what makes duplicates impossible.
create table leases (
    address inet primary key,
    family smallint not null generated always as (family(address)) stored,
    pool cidr not null references pools (network),
    node_id uuid not null references nodes,
    placement_id uuid not null references placements,
    state text not null default 'leased' check (state in ('leased', 'resting')),
    leased_at timestamptz not null default now(),
    rest_until timestamptz,
    check ((state = 'resting') = (rest_until is not null)),
    check (masklen(address) = case family(address) when 4 then 32 else 128 end),
    check (address << pool)
);
create unique index leases_placement on leases (placement_id, family) where state = 'leased';
create index leases_pool on leases (pool, state);

-- Written by zw_tell only, so that ids appear in the order of commits and a follower misses none.
create table events (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    who text not null,
    what text not null,
    subject_kind text not null check (subject_kind in ('instance', 'placement', 'image', 'node', 'region', 'cluster')),
    subject_id uuid not null,
    data jsonb not null default '{}'
);
create index events_subject on events (subject_id, id);

create table idempotency_keys (
    key text primary key check (length(key) between 1 and 255),
    request_hash bytea not null,
    token uuid not null,
    state text not null default 'begun' check (state in ('begun', 'finished', 'abandoned')),
    status integer,
    body bytea,
    begun_at timestamptz not null default now(),
    expires_at timestamptz not null,
    check ((state = 'finished') = (status is not null and body is not null))
);
create index idempotency_keys_expiry on idempotency_keys (expires_at);

-- Capacity: no transaction may place more on a node than it has. The lock on the node makes concurrent ones take turns,
-- and each statement of this function sees what was committed before it. Removed placements count nothing.
create function placements_check_capacity() returns trigger language plpgsql as $$
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
    select coalesce(sum(vcpu), 0), coalesce(sum(memory + memory_overhead), 0)
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
create trigger placements_capacity before insert on placements
    for each row when (new.state <> 'removed') execute function placements_check_capacity();

-- What a placement holds never changes while it lives, and it never comes back from removal: either would get around
-- the check above.
create function placements_refuse_change() returns trigger language plpgsql as $$
begin
    if old.state = 'removed' and new.state <> 'removed' then
        raise exception 'placement % was removed: it cannot become %', old.id, new.state using errcode = 'ZW002';
    end if;
    if (old.instance_id, old.generation, old.node_id, old.vcpu, old.memory, old.disk, old.memory_overhead, old.v4)
        is distinct from
        (new.instance_id, new.generation, new.node_id, new.vcpu, new.memory, new.disk, new.memory_overhead, new.v4)
        or old.v6 is distinct from new.v6 then
        raise exception 'placement %: what it holds cannot be changed', old.id using errcode = 'ZW002';
    end if;
    return new;
end
$$;
create trigger placements_fixed before update on placements
    for each row execute function placements_refuse_change();

-- A removed placement that still leases an address would leak it for ever, a living one without any could not be
-- reached; both are checked at commit, when the transaction is whole.
create function placements_check_leases() returns trigger language plpgsql as $$
declare
    leased bigint;
    live boolean;
    has_v6 boolean;
begin
    select state <> 'removed', v6 is not null into live, has_v6 from placements where id = new.id;
    select count(*) into leased from leases where placement_id = new.id and state = 'leased';
    if leased <> (case when not live then 0 when has_v6 then 2 else 1 end) then
        raise exception 'placement % (live: %) has % leases', new.id, live, leased using errcode = 'ZW003';
    end if;
    return null;
end
$$;
create constraint trigger placements_leases after insert or update of state on placements
    deferrable initially deferred for each row execute function placements_check_leases();

-- The last statement of a transaction: its events, then its notifications. The lock is held until the commit, so whoever
-- sees an event sees every one with a lower id. Taken last everywhere, it can be part of no deadlock.
create function zw_tell(
    who text[], what text[], subject_kind text[], subject_id uuid[], data jsonb[], channel text[], payload text[]
) returns void language plpgsql as $$
declare
    newest bigint;
begin
    if cardinality(who) > 0 then
        perform pg_advisory_xact_lock(1514816068);
        with event as (
            insert into events (who, what, subject_kind, subject_id, data)
            select u.a, u.b, u.c, u.d, u.e
            from unnest(who, what, subject_kind, subject_id, data) with ordinality as u (a, b, c, d, e, position)
            order by u.position
            returning id)
        select max(id) into newest from event;
        perform pg_notify('zw_events', newest::text);
    end if;
    perform pg_notify(u.a, u.b) from unnest(channel, payload) as u (a, b);
end
$$;
