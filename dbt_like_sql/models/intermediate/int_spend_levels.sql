-- One row per account and UTC day: the three levels of daily spend, as known at the close of that day from at most the
-- last 180 days. A level is an exponentially weighted mean of spend over the same mean of weekday factors, so that it is
-- the spend of an average day, plus a little of the plain mean.
-- Guarantee: no later day moves a row; the levels are positive once anything was spent within the 180 days.

{% set history = var('forecast_history_days') %}
{% set memories = var('level_memories') %}

with days as (
    select
        *,
        weekday_factors[weekday] as today_factor
    from {{ ref('int_weekday_profile') }}
),

-- Σ y·q^(n-j), written as q^n · Σ y·q^-j: a running sum needs no recursion. The powers stay far below what a DOUBLE
-- holds (0.7 ^ -540 is 10^84), and all terms are positive, so nothing cancels.
weighted as (
    select
        *,
        sum(cast(spend_usd as double) / today_factor) over recent as flat_sum,
        sum(power(cast(spend_usd as double) / today_factor, 2)) over recent as flat_square_sum,
        count(*) filter (where spend_usd > 0) over recent as active_days
        {%- for name, weight in memories.items() %},
        sum(cast(spend_usd as double) * power({{ 1 - weight }}, -day_number)) over recent as spend_{{ name }},
        sum(today_factor * power({{ 1 - weight }}, -day_number)) over recent as factor_{{ name }}
        {%- endfor %}
    from days
    window recent as (
        partition by account order by spend_date rows between {{ history - 1 }} preceding and current row
    )
),

levels as (
    select
        *,
        active_days / days as active_share,
        1 - active_days / days <= {{ var('fast_level_max_idle_share') }} as is_fast_level_used,
        -- The squared coefficient of variation of spend freed of its weekdays.
        case
            when flat_sum > 0 and days > 1
                then greatest(flat_square_sum - flat_sum * flat_sum / days, 0) / (days - 1)
                / power(flat_sum / days, 2)
            else 0
        end as cv2
        {%- for name, weight in memories.items() %},
        spend_{{ name }} / factor_{{ name }} + {{ var('level_rest') }} * mean_usd as level_{{ name }},
        -- Σw² / (Σw)² of the weights w = q^0 … q^(days-1): one over the number of days that the mean is worth.
        {{ weight }} / {{ 2 - weight }} * (1 + power({{ 1 - weight }}, days)) / (1 - power({{ 1 - weight }}, days))
            as inverse_sample_{{ name }}
        {%- endfor %}
    from weighted
)

select
    account,
    spend_date,
    day_number,
    weekday,
    days,
    active_days,
    active_share,
    spend_usd,
    weekday_factors,
    cv2,
    level_slow,
    level_medium,
    level_fast,
    is_fast_level_used,
    case
        when is_fast_level_used then (inverse_sample_slow + inverse_sample_medium + inverse_sample_fast) / 3
        else (inverse_sample_slow + inverse_sample_medium) / 2
    end as inverse_sample_size
from levels
order by account, spend_date
