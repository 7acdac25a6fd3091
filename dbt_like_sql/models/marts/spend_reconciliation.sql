-- One row per account and stretch of days known in full from both sides: the counter's change beside the bill.
-- Guarantee: a stretch runs from one midnight with a reading within 2 h to the next such midnight, so a day that was
-- observed stands alone and a gap is one row; every bill in it was fetched after its day's end. Days outside (the
-- running day, a gap with a day not billed, what lies before the first reading) are left out: there is nothing to compare.

-- Below a cent, or one per cent of the bill, a difference is OpenRouter's delay (figures up to a minute old) and our
-- sharing out of the minutes around a midnight, not an error. After a much more expensive day those minutes alone can
-- exceed that: `shared_usd` says how much they carry.
{% set tolerance_share = 0.01 %}
{% set tolerance_usd = 0.01 %}

with midnights as (
    select
        account,
        midnight_date,
        is_near and after_at is not null as is_bound,
        -- The usage between the midnight and the nearest reading: placed by time alone.
        coalesce(least(abs(total_usage - before_usage), abs(after_usage - total_usage)), 0) as shared_usd
    from {{ ref('int_midnights') }}
),

bounds as (
    select
        account,
        midnight_date as first_date,
        lead(midnight_date) over next_bound as end_date,
        shared_usd + lead(shared_usd) over next_bound as shared_usd
    from midnights
    where is_bound
    window next_bound as (partition by account order by midnight_date)
),

days as (
    select
        account,
        midnight_date as spend_date,
        max(midnight_date) filter (where is_bound) over (
            partition by account order by midnight_date
        ) as first_date
    from midnights
),

-- Summed before the bounds are joined: tables made in the same transaction have no statistics yet, and DuckDB (2.0.1) would
-- start from all pairs of days of an account.
sums as materialized (
    select
        days.account,
        days.first_date,
        count(*) as days,
        cast(sum(spend.observed_usd) as decimal(18, 9)) as observed_usd,
        try_cast(sum(bills.credits_usd) as decimal(18, 9)) as billed_usd
    from days
    inner join {{ ref('daily_spend') }} as spend
        on days.account = spend.account
        and days.spend_date = spend.spend_date
    left join {{ ref('stg_model_usage_days') }} as bills
        on days.account = bills.account
        and days.spend_date = bills.usage_date
    group by days.account, days.first_date
    having bool_and(coalesce(bills.is_whole_day, false))
),

stretches as (
    select
        sums.account,
        sums.first_date,
        cast(bounds.end_date - 1 as date) as last_date,
        sums.days,
        sums.observed_usd,
        sums.billed_usd,
        try_cast(bounds.shared_usd as decimal(18, 9)) as shared_usd
    from sums
    inner join bounds using (account, first_date)
    where bounds.end_date is not null
),

tolerances as (
    select
        *,
        try_cast(cast(observed_usd as decimal(38, 9)) - billed_usd as decimal(18, 9)) as residual_usd,
        cast(greatest({{ tolerance_share }} * abs(billed_usd), {{ tolerance_usd }}) as decimal(18, 9)) as tolerance_usd
    from stretches
)

select
    account,
    first_date,
    last_date,
    days,
    observed_usd,
    billed_usd,
    residual_usd,
    shared_usd,
    tolerance_usd,
    abs(residual_usd) <= tolerance_usd as is_within_tolerance
from tolerances
order by account, first_date
