-- One row per series and UTC day that the forecast learns from: from its first complete day (at most as many days back
-- as an estimate of any replayed day can reach) to its last complete one, no day left out.
-- Guarantee: `spend_usd` is never null and never negative, and depends on no later day. A correction that makes a day
-- negative counts as a day without spend: it says nothing about the days to come. The running day is not history yet.

-- A replayed day looks at its backtest, and each day of the backtest at its own history.
{% set days_kept = var('forecast_replay_days') + 2 * var('forecast_history_days') %}

with spans as (
    select
        * exclude (first_date),
        greatest(first_date, last_date - {{ days_kept - 1 }}) as first_date
    from {{ ref('int_series') }}
),

days as (
    select
        spans.series,
        spend.spend_date,
        spend.spend_date - spans.first_date + 1 as day_number,
        spend.is_measured,
        case when spend.is_complete then greatest(spend.spend_usd, cast(0 as decimal(18, 9))) end as known_usd
    from ({{ series_days() }}) as spend
    inner join spans
        on spend.account = spans.account
        and spend.key_hash is not distinct from spans.key_hash
        and spend.spend_date between spans.first_date and spans.last_date
),

-- Before the first reading a day may be unknown because its bill was never fetched. The mean of the four weeks before
-- stands in for it: leaving days out would shift the weekdays.
stand_ins as (
    select
        unknown.series,
        unknown.spend_date,
        cast(avg(known.known_usd) as decimal(18, 9)) as spend_usd
    from days as unknown
    inner join days as known
        on unknown.series = known.series
        and known.spend_date between unknown.spend_date - 28 and unknown.spend_date - 1
    where unknown.known_usd is null
    group by unknown.series, unknown.spend_date
)

select
    days.series,
    days.spend_date,
    days.day_number,
    cast(isodow(days.spend_date) as bigint) as weekday,
    coalesce(days.known_usd, stand_ins.spend_usd, cast(0 as decimal(18, 9))) as spend_usd,
    days.known_usd is not null as is_known,
    days.known_usd is not null and days.is_measured as is_measured
from days
left join stand_ins using (series, spend_date)
