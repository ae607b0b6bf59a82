-- Who leads. One row, changed by an election; never deleted, so that epochs only grow.

create table leadership (
    singleton boolean primary key default true check (singleton),
    -- Unique, although there is one row: a new epoch so changes a key and waits for whoever has the row locked as
    -- `for key share` (a leader's transactions), which a renewal, as it changes no key, does not.
    epoch bigint not null unique check (epoch > 0),
    node_id uuid not null references nodes,
    generation bigint not null,
    boot uuid not null,
    elected_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null
);

-- The highest epoch that a host has seen and kept on its own disk too: after a restored backup the next one exceeds it.
alter table nodes add column epoch_seen bigint not null default 0 check (epoch_seen >= 0);

-- The epoch of the leader that decided it; 0 for those from before there were elections.
alter table placements add column epoch bigint not null default 0 check (epoch >= 0);
