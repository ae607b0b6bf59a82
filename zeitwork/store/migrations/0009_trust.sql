-- Who belongs to the cluster: the authority that signs hosts' certificates, and the tokens that new hosts bring.

create table cluster_ca (
    only_one boolean primary key default true check (only_one),
    -- PEM. The key is as secret as this database: whoever reads it can make hosts.
    certificate text not null,
    key text not null,
    created_at timestamptz not null default now()
);

create table join_tokens (
    id uuid primary key,
    -- SHA-256 of the secret, which nobody keeps.
    secret_hash bytea not null check (octet_length(secret_hash) = 32),
    created_at timestamptz not null default now(),
    created_by text not null,
    expires_at timestamptz not null,
    used_at timestamptz,
    used_by uuid,
    -- SHA-256 of the public key that it was used for: the same host may ask again when the answer was lost.
    used_key bytea,
    revoked_at timestamptz,
    check (expires_at > created_at),
    check ((used_at is null) = (used_by is null) and (used_at is null) = (used_key is null))
);
create index join_tokens_expires on join_tokens (expires_at);

-- Where hosts listen for links; each writes its own.
create table host_links (
    node_id uuid primary key references nodes (id) on delete cascade,
    address text not null,
    updated_at timestamptz not null default now()
);
