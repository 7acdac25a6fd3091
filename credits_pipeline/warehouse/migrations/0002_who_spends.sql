-- Who spends: what keys, workspaces, users and apps were billed, the keys as they are, and which team they belong to.

create table raw.usage_breakdown (
    account varchar not null,
    usage_date date not null,
    dimension varchar not null,
    member varchar not null,
    model varchar not null,
    credits_usd decimal(18,9) not null,
    byok_usd decimal(18,9) not null,
    requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    reasoning_tokens bigint not null,
    cached_tokens bigint not null
);

create table raw.usage_breakdown_days (
    account varchar not null,
    usage_date date not null,
    dimension varchar not null,
    credits_usd decimal(18,9) not null,
    fetched_at timestamp not null,
    run_id varchar not null
);

create table raw.api_keys (
    account varchar not null,
    observed_at timestamp not null,
    key_hash varchar not null,
    name varchar not null,
    label varchar not null,
    workspace varchar,
    limit_usd decimal(18,9),
    limit_remaining_usd decimal(18,9),
    limit_reset varchar,
    has_byok_in_limit boolean not null,
    usage_usd decimal(18,9),
    usage_daily_usd decimal(18,9),
    usage_weekly_usd decimal(18,9),
    usage_monthly_usd decimal(18,9),
    is_disabled boolean not null,
    created_at timestamp,
    expires_at timestamp,
    run_id varchar not null
);

create table raw.teams (
    position bigint not null,
    account varchar not null,
    dimension varchar not null,
    pattern varchar not null,
    team varchar not null,
    cost_center varchar
);
