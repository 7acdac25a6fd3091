-- One row per series and UTC day: the weekday profile as it was known at the close of that day, from at most the last 26
-- weeks: how much of an average day's spend each weekday sees. The noisier spend is, the less a few weeks say about a
-- weekday: its factor is shrunk towards that of its kind, working day or weekend, and this one towards 1.
-- Guarantee: the seven factors are positive and average 1; no later day changes a row.

{% set history = var('forecast_history_days') %}
{% set weeks = (history + 6) // 7 %}

with sums as (
    select
        series,
        spend_date,
        day_number,
        weekday,
        spend_usd,
        is_known,
        least(day_number, {{ history }}) as days,
        cast(sum(spend_usd) over recent as double) as sum_usd,
        sum(cast(spend_usd as double) * cast(spend_usd as double)) over recent as square_sum,
        count(*) filter (where is_measured) over recent as measured_days
    from {{ ref('int_spend_history') }}
    window recent as (
        partition by series order by spend_date rows between {{ history - 1 }} preceding and current row
    )
),

means as (
    select
        *,
        sum_usd / days as mean_usd,
        -- Pseudo-days: the variance of a day in means squared, as in int_spend_levels, and a little more.
        {{ var('weekday_prior_days') }} + coalesce(
            greatest(square_sum - sum_usd * mean_usd, 0) / (greatest(measured_days, 2) - 1)
            / nullif(mean_usd * mean_usd, 0),
            0
        ) as prior_days
    from sums
),

-- One burst must not shape a weekday.
weekday_sums as (
    select
        * exclude (days, sum_usd, square_sum),
        sum(least(cast(spend_usd as double), {{ var('weekday_cap') }} * mean_usd)) over (
            partition by series, weekday order by spend_date
            rows between {{ weeks - 1 }} preceding and current row
        ) as capped_usd,
        least((day_number + 6) // 7, {{ weeks }}) as weekday_days
    from means
),

-- The sums of the seven weekdays are in the last seven rows.
weeks as (
    select
        *,
        coalesce(sum(capped_usd) filter (where weekday >= 6) over week, 0) as weekend_usd,
        coalesce(sum(capped_usd) filter (where weekday < 6) over week, 0) as working_usd,
        coalesce(sum(weekday_days) filter (where weekday >= 6) over week, 0) as weekend_days
        {%- for days_ago in range(1, 7) %},
        lag(capped_usd, {{ days_ago }}) over days as capped_usd_{{ days_ago }}
        {%- endfor %}
    from weekday_sums
    window
        days as (partition by series order by spend_date),
        week as (partition by series order by spend_date rows between 6 preceding and current row)
),

kinds as (
    select
        *,
        (coalesce(weekend_usd / nullif(mean_usd, 0), 0) + prior_days) / (weekend_days + prior_days) as weekend,
        (coalesce(working_usd / nullif(mean_usd, 0), 0) + prior_days)
        / (least(day_number, {{ 7 * weeks }}) - weekend_days + prior_days) as working,
        (5 * working + 2 * weekend) / 7 as mean_kind
    from weeks
),

factors as (
    select
        series,
        spend_date,
        day_number,
        spend_usd,
        is_known,
        mean_usd,
        measured_days
        {%- for days_ago in range(7) %},
        (
            coalesce({{ 'capped_usd' if days_ago == 0 else 'capped_usd_' ~ days_ago }} / nullif(mean_usd, 0), 0)
            + {{ var('weekday_kind_weight') }} * prior_days
            * if((weekday + {{ 6 - days_ago }}) % 7 >= 5, weekend, working) / mean_kind
        ) / (
            least((day_number + {{ 6 - days_ago }}) // 7, {{ weeks }})
            + {{ var('weekday_kind_weight') }} * prior_days
        ) as factor_{{ days_ago }}_days_ago
        {%- endfor %}
    from kinds
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
    measured_days,
    -- Tomorrow's weekday is the one of six days ago.
    [
        {%- for days_ago in range(6, -1, -1) %}
        factor_{{ days_ago }}_days_ago / mean_factor{{ ',' if not loop.last }}
        {%- endfor %}
    ] as factors_ahead
from means_of_factors
