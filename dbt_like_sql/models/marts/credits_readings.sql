-- One row per account and instant: the readings, with the balance.
-- Guarantee: every reading of the raw table is here, each instant once; nothing is filled in and nothing is clamped.

select
    account,
    observed_at,
    snapshot_date,
    total_credits,
    total_usage,
    cast(total_credits - total_usage as decimal(18, 9)) as balance_usd,
    source
from {{ ref('stg_credits_snapshots') }}
order by account, observed_at
