-- One row per account and UTC midnight, no midnight left out: from the start of the first known day to the end of the
-- day of the newest reading. What the two counters stood at then, and how sure that is.
-- Guarantee: `total_usage` is null exactly where no reading lies at or before the midnight, or none at or after it;
-- its differences add up to the counter's own change. It is rounded once, in whole numbers, the same in every DuckDB.
-- The readings are reduced to days first, so that later steps cost per day, however many readings there are.

-- How near a reading must lie for a midnight to count as read: OpenRouter's figures are up to a minute old and
-- schedules drift, and two hours are at most a twelfth of a day's spend shared out by time.
{% set near_us = 2 * 60 * 60 * 1000 * 1000 %}

with reading_days as (
    select
        account,
        cast(observed_at as date) as reading_date,
        count(*) as readings,
        min(observed_at) as first_at,
        arg_min(total_usage, observed_at) as first_usage,
        arg_min(total_credits, observed_at) as first_credits,
        max(observed_at) as last_at,
        arg_max(total_usage, observed_at) as last_usage,
        arg_max(total_credits, observed_at) as last_credits
    from {{ ref('stg_credits_snapshots') }}
    group by account, cast(observed_at as date)
),

billed_spans as (
    select
        account,
        min(usage_date) filter (where credits_usd > 0) as first_day,
        max(usage_date) filter (where is_whole_day) as last_day
    from {{ ref('stg_model_usage_days') }}
    group by account
),

-- The midnights between two neighbouring days with readings share the last reading of the one and the first of the
-- other. A reading at midnight itself belongs to the day that begins: it lies "after" at no distance.
stretches as (
    select
        account,
        lag(reading_date) over reading_day_before + 1 as first_midnight,
        reading_date as last_midnight,
        readings,
        lag(last_at) over reading_day_before as before_at,
        lag(last_usage) over reading_day_before as before_usage,
        lag(last_credits) over reading_day_before as before_credits,
        first_at as after_at,
        first_usage as after_usage,
        first_credits as after_credits
    from reading_days
    window reading_day_before as (partition by account order by reading_date)

    union all

    -- There is nothing after the midnight that ends the newest reading's day.
    select
        account,
        max(reading_date) + 1,
        max(reading_date) + 1,
        null,
        max(last_at),
        arg_max(last_usage, reading_date),
        arg_max(last_credits, reading_date),
        null,
        null,
        null
    from reading_days
    group by account

    union all

    -- An account that was never read (its key may see the bills only) is known up to its last whole billed day.
    select account, first_day, last_day + 1, null, null, null, null, null, null, null
    from billed_spans
    where first_day <= last_day and account not in (select account from reading_days)
),

-- Before the first reading midnights begin with the first day billed above zero, if that is earlier.
midnights as (
    select
        stretches.* exclude (first_midnight, last_midnight),
        last_midnight,
        cast(
            unnest(
                generate_series(
                    coalesce(first_midnight, least(billed_spans.first_day, last_midnight)),
                    last_midnight,
                    interval 1 day
                )
            ) as date
        ) as midnight_date
    from stretches
    left join billed_spans using (account)
),

distances as (
    select
        *,
        epoch_us(cast(midnight_date as timestamp)) - epoch_us(before_at) as since_before_us,
        epoch_us(after_at) - epoch_us(cast(midnight_date as timestamp)) as until_after_us,
        -- In whole nano-dollars: "/" would go through DOUBLE and lose exactness.
        -- 2e18 nano-dollars times a century of microseconds is far below the limit of a HUGEINT.
        cast((cast(after_usage as decimal(38, 9)) - before_usage) * 1000000000 as hugeint) as move_nano
    from midnights
),

shares as (
    select
        *,
        coalesce(since_before_us <= {{ near_us }}, false)
        or coalesce(until_after_us <= {{ near_us }}, false) as is_near,
        -- change × elapsed ÷ total, halves rounded away from zero as a CAST to DECIMAL does. Mostly there is nothing to
        -- share out, and 128 bits are slow.
        case
            when move_nano = 0 then 0
            when until_after_us = 0 then move_nano
            else sign(move_nano) * (
                (2 * abs(move_nano) * since_before_us + since_before_us + until_after_us)
                // (2 * (since_before_us + until_after_us))
            )
        end as share_nano
    from distances
)

select
    account,
    midnight_date,
    case when midnight_date = last_midnight then coalesce(readings, 0) else 0 end as readings,
    before_at,
    after_at,
    before_usage,
    after_usage,
    cast(
        case
            when before_at is null and until_after_us = 0 then after_usage
            else before_usage + cast(cast(share_nano as decimal(38, 0)) * 0.000000001 as decimal(18, 9))
        end as decimal(18, 9)
    ) as total_usage,
    case
        when is_near and (until_after_us is null or since_before_us <= until_after_us) then before_credits
        when is_near then after_credits
        when before_credits = after_credits then before_credits
    end as total_credits,
    is_near
from shares
order by account, midnight_date
