-- One row per account that was ever read: where it stands at its newest reading, and what is known about it. The
-- forecast begins at the close of the last complete day, with the balance left then, counting all credits bought since.
-- Guarantee: `close_date` is the day before the newest reading's, or that day itself where its whole bill is known, so
-- that no forecast day lies in the past.

with newest as (
    select
        account,
        max(observed_at) as as_of,
        cast(max(observed_at) as date) as reading_date,
        arg_max(total_usage, observed_at) as total_usage,
        arg_max(balance_usd, observed_at) as balance_usd,
        bool_and(total_credits = 0 and total_usage = 0) as is_unused
    from {{ ref('credits_readings') }}
    group by account
),

complete_spans as (
    select
        account,
        max(spend_date) as last_complete_date
    from {{ ref('daily_spend') }}
    where is_complete
    group by account
),

-- Days before the first reading may be unknown up to the reading's own, but their time has passed all the same.
last_days as (
    select
        newest.*,
        complete_spans.last_complete_date,
        cast(
            greatest(coalesce(complete_spans.last_complete_date, newest.reading_date - 1), newest.reading_date - 1)
            as date
        ) as close_date
    from newest
    left join complete_spans using (account)
),

-- Spend between that close and the newest reading: by the counter where the midnight is known; else as billed so far.
-- Where the close lies after the reading, it is what the whole day's bill shows was still to come.
balances as (
    select
        last_days.*,
        cast(
            last_days.balance_usd + case
                when midnights.total_usage is not null then last_days.total_usage - midnights.total_usage
                when last_days.close_date < last_days.reading_date then coalesce(running_day.billed_usd, 0)
                else -greatest(coalesce(running_day.spend_usd - running_day.observed_usd, 0), 0)
            end as decimal(18, 9)
        ) as balance_at_close_usd
    from last_days
    left join {{ ref('int_midnights') }} as midnights
        on last_days.account = midnights.account
        and last_days.close_date + 1 = midnights.midnight_date
    left join {{ ref('daily_spend') }} as running_day
        on last_days.account = running_day.account
        and last_days.reading_date = running_day.spend_date
),

history as (
    select
        balances.account,
        count(*) filter (where spend.is_complete) as history_days,
        count(*) filter (where spend.is_complete and spend.method = 'interpolated') as imputed_days,
        count(*) filter (where spend.is_complete and spend.spend_usd > 0) as days_with_spend,
        count(*) filter (
            where spend.is_complete
            and spend.spend_date between balances.close_date - {{ var('idle_days') - 1 }} and balances.close_date
        ) as recent_days,
        coalesce(bool_or(spend.spend_usd > 0 and spend.spend_date > balances.close_date - {{ var('idle_days') }}), false)
            as has_spent_lately
    from balances
    left join {{ ref('daily_spend') }} as spend using (account)
    group by balances.account
)

select
    balances.account,
    series.series,
    balances.as_of,
    balance_usd,
    last_complete_date,
    close_date,
    balance_at_close_usd,
    history_days,
    imputed_days,
    days_with_spend,
    recent_days,
    is_unused,
    case
        when balance_usd <= 0 then 'exhausted'
        -- A day that is not known may have seen spend.
        when not has_spent_lately and recent_days = {{ var('idle_days') }} then 'idle'
        when not has_spent_lately
            or history_days < {{ var('runway_min_days') }} or days_with_spend < {{ var('runway_min_days_with_spend') }}
            then 'accumulating'
        else 'ok'
    end as status,
    history_days < {{ var('early_estimate_days') }} as is_early
from balances
inner join history using (account)
inner join {{ ref('int_series') }} as series on balances.account = series.account and series.key_hash is null
