-- One row per account, pair of neighbouring readings and kind: every change of a counter that is not spend.
-- Guarantee: `amount_usd` is the signed change of the counter, so the sum of top_up and credit_decrease from the
-- first reading to the newest is exactly the change of total_credits.
-- Only the net effect between two readings is visible: a top-up and a refund in between show as their difference, and
-- a correction smaller than the spend in that time does not show at all.

with pairs as (
    select
        account,
        lag(observed_at) over reading_before as event_at_earliest,
        observed_at as event_at_latest,
        cast(total_credits - lag(total_credits) over reading_before as decimal(18, 9)) as credits_move,
        cast(total_usage - lag(total_usage) over reading_before as decimal(18, 9)) as usage_move
    from {{ ref('stg_credits_snapshots') }}
    window reading_before as (partition by account order by observed_at)
),

events as (
    select
        account,
        event_at_earliest,
        event_at_latest,
        case when credits_move > 0 then 'top_up' else 'credit_decrease' end as kind,
        credits_move as amount_usd
    from pairs
    where credits_move <> 0

    union all

    select
        account,
        event_at_earliest,
        event_at_latest,
        'usage_correction' as kind,
        usage_move as amount_usd
    from pairs
    where usage_move < 0
)

select
    account,
    event_at_earliest,
    event_at_latest,
    kind,
    amount_usd
from events
order by account, event_at_latest, kind
