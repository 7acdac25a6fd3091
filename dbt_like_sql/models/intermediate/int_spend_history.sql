-- One row per account and UTC day that the forecast learns from: from the account's first complete day (at most as many
-- days back as an estimate of any replayed day can reach) to its last complete one, no day left out.
-- Guarantee: `spend_usd` is never null and never negative, and depends on no later day. A correction that makes a day
-- negative counts as a day without spend: it says nothing of the days to come. The running day is no history.

-- A replayed day looks at its backtest, and each day of that at its own history.
{% set days_kept = var('forecast_replay_days') + 2 * var('forecast_history_days') %}

with spans as (
    select
        account,
        min(spend_date) as first_complete_date,
        max(spend_date) as last_complete_date
    from {{ ref('daily_spend') }}
    where is_complete
    group by account
),

days as (
    select
        spend.account,
        spend.spend_date,
        spend.is_complete,
        spend.method = 'interpolated' as is_interpolated,
        case when spend.is_complete then greatest(spend.spend_usd, cast(0 as decimal(18, 9))) end as known_usd
    from {{ ref('daily_spend') }} as spend
    inner join spans
        on spend.account = spans.account
        and spend.spend_date between spans.first_complete_date and spans.last_complete_date
        and spend.spend_date > spans.last_complete_date - {{ days_kept }}
),

filled as (
    select
        *,
        -- Before the first reading a day may be unknown because its bill was never fetched. The mean of the four weeks
        -- before stands in for it: leaving days out would shift the weekdays.
        coalesce(
            known_usd,
            cast(avg(known_usd) over (
                partition by account order by spend_date rows between 28 preceding and 1 preceding
            ) as decimal(18, 9)),
            cast(0 as decimal(18, 9))
        ) as spend_usd
    from days
)

select
    account,
    spend_date,
    cast(spend_date - min(spend_date) over (partition by account) + 1 as bigint) as day_number,
    cast(isodow(spend_date) as bigint) as weekday,
    spend_usd,
    is_interpolated or not is_complete as is_imputed
from filled
order by account, spend_date
