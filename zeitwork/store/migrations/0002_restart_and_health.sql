-- Instances that ended by themselves are started again in place; whether they answer is known and shown.

alter table instances
    add column restart_mode text not null default 'always' check (restart_mode in ('always', 'on-failure', 'never')),
    add column restart_max_attempts integer check (restart_max_attempts >= 0),
    -- When somebody asked that a waiting placement be started at once: it overrides waits that began before.
    add column retry_asked_at timestamptz,
    add column health jsonb check (jsonb_typeof(health) = 'object'),
    drop constraint instances_outcome_check,
    add constraint instances_outcome_check check (outcome in ('exited', 'signaled', 'stopped', 'killed',
        'start_failed', 'vmm_died', 'panic', 'oom_killed', 'unhealthy', 'unknown'));

alter table placements
    -- failures counts ends in a row, restarts all new starts of this placement.
    add column failures integer not null default 0 check (failures >= 0),
    add column restarts integer not null default 0 check (restarts >= 0),
    add column next_try_at timestamptz,
    -- Changes only are written, not samples.
    add column health text not null default 'unknown' check (health in ('unknown', 'healthy', 'unhealthy')),
    add column health_reason text not null default '',
    add column health_changed_at timestamptz,
    drop constraint placements_state_check,
    add constraint placements_state_check check (state in ('assigned', 'preparing', 'starting', 'running', 'stopping',
        'waiting', 'removed')),
    drop constraint placements_outcome_check,
    add constraint placements_outcome_check check (outcome in ('exited', 'signaled', 'stopped', 'killed',
        'start_failed', 'vmm_died', 'panic', 'oom_killed', 'unhealthy', 'unknown')),
    add constraint placements_next_try check (next_try_at is null or state = 'waiting');
