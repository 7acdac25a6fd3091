-- One row per account and stretch of days that both sides know whole: the counter's move beside the bill.
-- Guarantee: a stretch runs from one midnight with a reading within 2 h to the next such midnight, so a day that was
-- observed stands alone and a gap is one row; every bill in it was fetched after its day's end. Days outside (the
-- running day, a gap with a day not billed, what lies before the first reading) are not here: nothing can be compared.

-- Below a cent, or one per cent of the bill, a difference is the vendor's delay (figures up to a minute old) and ours
-- (up to two hours around a midnight shared out by time), not an error.
{% set tolerance_share = 0.01 %}
{% set tolerance_usd = 0.01 %}

with days as (
    select
        account,
        midnight_date as spend_date,
        max(midnight_date) filter (where is_near and after_at is not null) over (
            partition by account order by midnight_date
        ) as first_date,
        min(midnight_date) filter (where is_near and after_at is not null) over (
            partition by account order by midnight_date
            rows between 1 following and unbounded following
        ) as end_date
    from {{ ref('int_midnights') }}
),

stretches as (
    select
        days.account,
        days.first_date,
        cast(days.end_date - 1 as date) as last_date,
        count(*) as days,
        cast(sum(spend.observed_usd) as decimal(18, 9)) as observed_usd,
        cast(sum(bills.credits_usd) as decimal(18, 9)) as billed_usd
    from days
    inner join {{ ref('daily_spend') }} as spend
        on days.account = spend.account
        and days.spend_date = spend.spend_date
    left join {{ ref('stg_model_usage_days') }} as bills
        on days.account = bills.account
        and days.spend_date = bills.usage_date
    where days.first_date is not null and days.end_date is not null
    group by days.account, days.first_date, days.end_date
    having bool_and(coalesce(bills.is_whole_day, false))
),

tolerances as (
    select
        *,
        cast(observed_usd - billed_usd as decimal(18, 9)) as residual_usd,
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
    tolerance_usd,
    abs(residual_usd) <= tolerance_usd as is_within_tolerance
from tolerances
order by account, first_date
