-- Hosts that are created through the API are invited where they are, and a host can be declared gone for good.

create table invitations (
    node_id uuid primary key references nodes on delete cascade,
    -- HOST:PORT.
    address text not null,
    -- What the unclaimed host printed. It lets whoever knows it take that host: it goes when it is used, or of no use; coded tells that there was one.
    code text,
    coded boolean not null,
    asked_at timestamptz not null default clock_timestamp(),
    timeout double precision not null check (timeout > 0),
    tries integer not null default 0 check (tries >= 0),
    reason text not null default '',
    accepted_at timestamptz,
    -- Given up; asked for again, it begins anew.
    ended_at timestamptz,
    check (code is null or accepted_at is null)
);
create index invitations_open on invitations (asked_at) where ended_at is null;

-- A token that was made for an invitation lets one host in as that node.
alter table join_tokens add column node_id uuid references nodes on delete cascade;
create index join_tokens_node on join_tokens (node_id) where node_id is not null;

-- When an operator said that the host never comes back: its place is never given to whoever says to be it.
alter table nodes add column buried_at timestamptz;
