-- One row per series and UTC day: the weekday profile as it was known at the close of that day, from at most the last 26
-- weeks: how much of an average day's spend each weekday sees.
-- Guarantee: the seven factors are positive and average 1; no later day changes a row.

{% set history = var('forecast_history_days') %}
{% set weeks = (history + 6) // 7 %}

with means as (
    select
        series,
        spend_date,
        day_number,
        weekday,
        spend_usd,
        is_known,
        cast(sum(spend_usd) over recent as double) / least(day_number, {{ history }}) as mean_usd
    from {{ ref('int_spend_history') }}
    window recent as (
        partition by series order by spend_date rows between {{ history - 1 }} preceding and current row
    )
),

-- One burst must not shape a weekday.
weekday_sums as (
    select
        series,
        spend_date,
        day_number,
        spend_usd,
        is_known,
        mean_usd,
        sum(least(cast(spend_usd as double), {{ var('weekday_cap') }} * mean_usd)) over (
            partition by series, weekday order by spend_date
            rows between {{ weeks - 1 }} preceding and current row
        ) as capped_usd
    from means
),

-- The sums of the seven weekdays are in the last seven rows. Factors are shrunk towards 1 by pseudo-days.
factors as (
    select
        series,
        spend_date,
        day_number,
        spend_usd,
        is_known,
        mean_usd
        {%- for days_ago in range(7) %},
        (
            coalesce(
                {{ 'capped_usd' if days_ago == 0 else 'lag(capped_usd, ' ~ days_ago ~ ') over days' }}
                / nullif(mean_usd, 0),
                0
            ) + {{ var('weekday_prior_days') }}
        ) / (least((day_number + {{ 6 - days_ago }}) // 7, {{ weeks }}) + {{ var('weekday_prior_days') }})
            as factor_{{ days_ago }}_days_ago
        {%- endfor %}
    from weekday_sums
    window days as (partition by series order by spend_date)
),

means_of_factors as (
    select
        *,
        (
            {%- for days_ago in range(7) %}
            {{ '+ ' if not loop.first }}factor_{{ days_ago }}_days_ago
            {%- endfor %}
        ) / 7 as mean_factor
    from factors
)

select
    series,
    spend_date,
    day_number,
    spend_usd,
    is_known,
    mean_usd,
    -- Tomorrow's weekday is the one of six days ago.
    [
        {%- for days_ago in range(6, -1, -1) %}
        factor_{{ days_ago }}_days_ago / mean_factor{{ ',' if not loop.last }}
        {%- endfor %}
    ] as factors_ahead
from means_of_factors
