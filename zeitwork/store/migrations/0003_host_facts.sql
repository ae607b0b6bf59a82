-- What hosts find out about themselves while they run: whether they take new work, their own addresses, and how what
-- they have, gave away and used changed over a day.

-- Closed by pressure: kept here so that neither the scheduler nor the host's next process forgets it.
alter table nodes
    add column closed_since timestamptz,
    add column closed_reason text not null default '',
    add column addresses jsonb not null default '[]' check (jsonb_typeof(addresses) = 'array'),
    add check ((closed_since is not null) = (closed_reason <> ''));

-- One row a minute and host, for a day: at most 1,441 for each host.
create table resource_samples (
    node_id uuid not null references nodes on delete cascade,
    at timestamptz not null check (date_trunc('minute', at) = at),
    vcpu_capacity integer not null,
    memory_capacity integer not null,
    vcpu_allocated integer not null,
    memory_allocated integer not null,
    cpus_used real not null check (cpus_used >= 0),
    memory_used integer not null check (memory_used >= 0),
    memory_total integer not null,
    placements integer not null,
    primary key (node_id, at)
);
create index resource_samples_at on resource_samples (at);
