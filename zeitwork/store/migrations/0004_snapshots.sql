-- Pausing, and snapshots: what a machine was at one moment, to go on from later.

create table snapshots (
    id uuid primary key,
    name text check (name <> ''),
    instance_id uuid not null references instances,
    placement_id uuid not null references placements,
    node_id uuid not null references nodes,
    -- What its machine was made of, kept here since whoever goes on from it must be made of the same.
    image_id uuid not null references images,
    image_digest text not null,
    vcpu integer not null check (vcpu > 0),
    memory integer not null check (memory > 0),
    disk integer not null check (disk > 0),
    default_port integer not null check (default_port between 1 and 65535),
    environment jsonb not null check (jsonb_typeof(environment) = 'object'),
    command jsonb not null check (jsonb_typeof(command) = 'array'),
    stop_timeout double precision not null check (stop_timeout >= 0),
    restart_mode text not null check (restart_mode in ('always', 'on-failure', 'never')),
    restart_max_attempts integer check (restart_max_attempts >= 0),
    health jsonb check (jsonb_typeof(health) = 'object'),
    state text not null default 'creating' check (state in ('creating', 'ready', 'failed', 'deleting', 'deleted')),
    reason text not null default '',
    size bigint not null default 0 check (size >= 0),
    hypervisor text,
    vmm_version text,
    guest text,
    cpu text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    ready_at timestamptz,
    deleted_at timestamptz,
    unique (id, node_id),
    check (state <> 'ready' or num_nulls(ready_at, hypervisor, vmm_version, guest, cpu) = 0),
    check ((state = 'deleted') = (deleted_at is not null))
);
-- A machine stands still while one is taken: one at a time.
create unique index snapshots_creating on snapshots (instance_id) where state = 'creating';
create index snapshots_taking on snapshots (placement_id) where state = 'creating';
create index snapshots_instance on snapshots (instance_id, id);
create index snapshots_image on snapshots (image_id) where state in ('creating', 'ready');
create index snapshots_node on snapshots (node_id) where state <> 'deleted';

alter table instances
    -- Wanted paused: a way of being wanted running.
    add column paused boolean not null default false,
    -- The generation that goes on from a snapshot; those after it boot.
    add column snapshot_id uuid references snapshots,
    add column snapshot_generation bigint,
    add constraint instances_paused check (not paused or desired = 'running'),
    add constraint instances_snapshot check (num_nulls(snapshot_id, snapshot_generation) in (0, 2)
        and snapshot_generation between 1 and generation);
create index instances_snapshot_wanted on instances (snapshot_id) where snapshot_id is not null;

alter table placements
    add column snapshot_id uuid,
    -- The files are on that host only.
    add constraint placements_snapshot foreign key (snapshot_id, node_id) references snapshots (id, node_id),
    drop constraint placements_state_check,
    add constraint placements_state_check check (state in ('assigned', 'preparing', 'starting', 'running', 'paused',
        'stopping', 'waiting', 'removed'));
create index placements_snapshot_live on placements (snapshot_id) where snapshot_id is not null and state <> 'removed';

create or replace function placements_refuse_change() returns trigger language plpgsql as $$
begin
    if old.state = 'removed' and new.state <> 'removed' then
        raise exception 'placement % was removed: it cannot become %', old.id, new.state using errcode = 'ZW002';
    end if;
    if (old.instance_id, old.generation, old.node_id, old.vcpu, old.memory, old.disk, old.memory_overhead, old.v4)
        is distinct from
        (new.instance_id, new.generation, new.node_id, new.vcpu, new.memory, new.disk, new.memory_overhead, new.v4)
        or old.v6 is distinct from new.v6 or old.snapshot_id is distinct from new.snapshot_id then
        raise exception 'placement %: what it holds cannot be changed', old.id using errcode = 'ZW002';
    end if;
    return new;
end
$$;

alter table events
    drop constraint events_subject_kind_check,
    add constraint events_subject_kind_check check (subject_kind in ('instance', 'placement', 'image', 'node', 'region',
        'cluster', 'snapshot'));
