-- The tables of the first release: their form is never edited, a change is a new file. What the raw tables mean is said
-- in dbt_like_sql/models/sources.yml, which every build of the SQL applies.

create schema raw;
create schema ops;
create schema marts;

create table raw.credits_snapshots (
    account varchar not null,
    snapshot_date date not null,
    observed_at timestamp not null,
    total_credits decimal(18,9) not null,
    total_usage decimal(18,9) not null,
    key_fingerprint varchar,
    run_id varchar not null,
    source varchar not null check (source in ('api', 'import')),
    payload varchar
);

create table raw.model_usage (
    account varchar not null,
    usage_date date not null,
    model varchar not null,
    credits_usd decimal(18,9) not null,
    byok_usd decimal(18,9) not null,
    requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    reasoning_tokens bigint not null,
    cached_tokens bigint not null
);

create table raw.model_usage_days (
    account varchar not null,
    usage_date date not null,
    credits_usd decimal(18,9) not null,
    fetched_at timestamp not null,
    run_id varchar not null
);

create table ops.alerts_sent (
    alert_key varchar not null,
    kind varchar not null,
    account varchar,
    threshold_days bigint,
    run_out_p50 date,
    as_of timestamp,
    channel varchar not null,
    title varchar not null,
    body varchar not null,
    due_at timestamp not null,
    sent_at timestamp,
    cleared_at timestamp,
    run_id varchar
);
comment on table ops.alerts_sent is
    'One row per alert and channel: which alert went out when, so that none goes out twice and none is forgotten.';
comment on column ops.alerts_sent.alert_key is
    'What the alert is about; the same key is not due again before cleared_at.';
comment on column ops.alerts_sent.kind is
    'exhausted, run_out, spend (a day above what the forecast held possible), stale (no new readings) or run_failed.';
comment on column ops.alerts_sent.account is 'Name of the account; null where no single one is meant.';
comment on column ops.alerts_sent.threshold_days is
    'The threshold (CREDITS_ALERT_DAYS) that was crossed; null where none applies.';
comment on column ops.alerts_sent.run_out_p50 is 'UTC day named in the alert as the likely run-out.';
comment on column ops.alerts_sent.as_of is 'UTC instant of the reading that the alert goes by; null where none does.';
comment on column ops.alerts_sent.channel is
    'Scheme and fingerprint of the address it is for, never the address; log where no address is set; covered where '
    'the alert of a nearer threshold says it as well.';
comment on column ops.alerts_sent.title is 'First line of what it says.';
comment on column ops.alerts_sent.body is 'The rest of what it says.';
comment on column ops.alerts_sent.due_at is 'UTC instant at which it became due.';
comment on column ops.alerts_sent.sent_at is
    'UTC instant at which this channel had taken it; null while it has not, and it is tried again.';
comment on column ops.alerts_sent.cleared_at is
    'UTC instant at which its cause was over, so that the next time is an alert again; null while it stands.';
comment on column ops.alerts_sent.run_id is 'Run that found it due, or the failed run it is about; null where a sensor found it.';

create table ops.schema_version (version bigint not null, applied_at timestamp not null);
comment on table ops.schema_version is 'One row: which form the raw and ops tables of this file have.';
comment on column ops.schema_version.version is 'Counts up from 1 with every change of their form.';
comment on column ops.schema_version.applied_at is 'UTC instant at which the file was brought to it.';
