-- One row per account and UTC day: the weekday profile as it was known at the close of that day, from at most the last
-- 180 days: how much of an average day's spend each weekday sees.
-- Guarantee: the seven factors are positive and average 1; no later day moves a row.

{% set history = var('forecast_history_days') %}

with means as (
    select
        *,
        least(day_number, {{ history }}) as days,
        cast(sum(spend_usd) over recent as double) / least(day_number, {{ history }}) as mean_usd
    from {{ ref('int_spend_history') }}
    window recent as (
        partition by account order by spend_date rows between {{ history - 1 }} preceding and current row
    )
),

capped as (
    select
        *,
        least(cast(spend_usd as double), {{ var('weekday_cap') }} * mean_usd) as capped_usd
    from means
),

weekday_sums as (
    select
        *
        {%- for weekday in range(1, 8) %},
        coalesce(sum(capped_usd) filter (where weekday = {{ weekday }}) over recent, 0) as capped_usd_{{ weekday }}
        {%- endfor %}
    from capped
    window recent as (
        partition by account order by spend_date rows between {{ history - 1 }} preceding and current row
    )
),

-- Shrunk to 1 by days that nobody saw. Days are consecutive, so how often each weekday occurred can be counted off.
raw_factors as (
    select
        *
        {%- for weekday in range(1, 8) %},
        (coalesce(capped_usd_{{ weekday }} / nullif(mean_usd, 0), 0) + {{ var('weekday_prior_days') }})
        / ((days + 6 - (weekday + 7 - {{ weekday }}) % 7) // 7 + {{ var('weekday_prior_days') }}) as factor_{{ weekday }}
        {%- endfor %}
    from weekday_sums
),

normalised as (
    select
        *,
        (
            {%- for weekday in range(1, 8) %}
            {{ '+ ' if not loop.first }}factor_{{ weekday }}
            {%- endfor %}
        ) / 7 as mean_factor
    from raw_factors
)

select
    account,
    spend_date,
    day_number,
    weekday,
    days,
    spend_usd,
    mean_usd,
    [
        {%- for weekday in range(1, 8) %}
        factor_{{ weekday }} / mean_factor{{ ',' if not loop.last }}
        {%- endfor %}
    ] as weekday_factors
from normalised
order by account, spend_date
