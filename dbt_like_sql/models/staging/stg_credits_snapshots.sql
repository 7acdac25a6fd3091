-- One row per account and instant: the readings, each instant once.
-- Guarantee: where an account has several rows for the same instant, every build keeps the same one: a reading of our
-- own before an imported one, then the higher counters, then the later snapshot_date.

select
    account,
    observed_at,
    snapshot_date,
    total_credits,
    total_usage,
    source
from {{ source('raw', 'credits_snapshots') }}
-- The row kept is the last of its instant: 'api' sorts before 'import', so `desc` puts it last.
qualify lead(observed_at) over (
    partition by account
    order by observed_at, source desc, total_usage, total_credits, snapshot_date
) is distinct from observed_at
