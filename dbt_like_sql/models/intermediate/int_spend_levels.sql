-- One row per series and UTC day: two levels of daily spend and the noise around them, as known at the close of
-- that day from at most the last 180 days. A level is an exponentially weighted mean of spend over the same mean of the
-- weekday factors, so that it is the spend of an average day, plus a little of the plain mean. The noise, before the
-- account's own record is considered, gives the sum of h days a log-variance of
--     ln(1 + day_noise / h + level_noise) + drift_per_day · h + noise_floor
-- Guarantee: no later day changes a row; levels are positive once anything was spent within the 180 days, and the
-- log-variance is positive for every h.

{% set history = var('forecast_history_days') %}
{% set memories = var('level_memories') %}

with days as (
    select
        series,
        spend_date,
        day_number,
        least(day_number, {{ history }}) as days,
        spend_usd,
        is_known,
        mean_usd,
        measured_days,
        factors_ahead[1] as tomorrow_factor,
        cast(spend_usd as double) as spend,
        -- A week ahead is the weekday of today.
        cast(spend_usd as double) / factors_ahead[7] as flat_spend
        {%- for name, weight in memories.items() %},
        -- Powers are slow: this is the only one, q^n.
        power({{ 1 - weight }}, day_number) as decay_{{ name }},
        list_dot_product(
            factors_ahead,
            [{% for days_ago in range(6, -1, -1) %}cast({{ weight * (1 - weight) ** days_ago / (1 - (1 - weight) ** 7) }} as double){{ ', ' if not loop.last }}{% endfor %}]
        ) as mean_factor_{{ name }}
        {%- endfor %}
    from {{ ref('int_weekday_profile') }}
),

-- Σ y·q^(n-j), written as q^n · Σ y·q^-j: a running sum needs no recursion. The powers stay well within the range of
-- a DOUBLE (0.7 ^ 480 is 10^-74), and all terms are positive, so nothing cancels.
sums as (
    select
        series,
        spend_date,
        day_number,
        days,
        spend_usd,
        mean_usd,
        measured_days,
        tomorrow_factor,
        sum(flat_spend) over recent as flat_sum,
        sum(flat_spend * flat_spend) over recent as flat_square_sum,
        count(*) filter (where spend > 0) over recent as active_days,
        count(*) filter (where spend = 0) over last_week as idle_days_of_week,
        last_value(if(spend > 0 and is_known, day_number, null) ignore nulls) over recent as last_active_day
        {%- for name, weight in memories.items() %},
        decay_{{ name }},
        -- q^days, as days is the lesser of n and {{ history }}.
        greatest(decay_{{ name }}, cast({{ (1 - weight) ** history }} as double)) as start_decay_{{ name }},
        decay_{{ name }} * sum(spend / decay_{{ name }}) over recent as decayed_spend_{{ name }},
        mean_factor_{{ name }}
        {%- endfor %}
    from days
    window
        recent as (
            partition by series order by spend_date rows between {{ history - 1 }} preceding and current row
        ),
        last_week as (partition by series order by spend_date rows between 6 preceding and current row)
),

levels as (
    select
        *,
        idle_days_of_week <= {{ var('fast_level_max_idle_days') }} as is_fast_level_used,
        -- The squared coefficient of variation of spend, adjusted for weekdays. A gap's days are alike because they share
        -- one measurement: its k days have a k-th of a day's variance k times over, so that measurements are what counts.
        case
            when flat_sum > 0 and days > 1
                then greatest(flat_square_sum - flat_sum * flat_sum / days, 0) / (greatest(measured_days, 2) - 1)
                / power(flat_sum / days, 2)
            else 0
        end as cv2
        {%- for name, weight in memories.items() %},
        decayed_spend_{{ name }} * {{ weight }} / (1 - start_decay_{{ name }}) / mean_factor_{{ name }}
        + {{ var('level_rest') }} * mean_usd as level_{{ name }},
        -- Σw² / (Σw)² of the weights w = q^0 … q^(days-1): one over the effective number of days in the mean.
        {{ weight }} / {{ 2 - weight }} * (1 + start_decay_{{ name }}) / (1 - start_decay_{{ name }}) as inverse_sample_{{ name }}
        {%- endfor %}
    from sums
),

noise as (
    select
        *,
        -- 0 calm … 1 bursty. A ramp, not a switch: no constant may jump overnight.
        least(cv2 / {{ var('bursty_cv2') }}, 1) as burstiness
        {%- for name in var('calm') %},
        cast({{ var('calm')[name] }} + burstiness * ({{ var('bursty')[name] }} - {{ var('calm')[name] }}) as double)
            as {{ name }}_constant
        {%- endfor %},
        case
            when is_fast_level_used then (inverse_sample_slow + inverse_sample_fast) / 2
            else inverse_sample_slow
        end as inverse_sample_size
    from levels
),

-- The observed noise, shrunk towards the expected noise.
shrunk as (
    select
        *,
        ((days - 1) * cv2 + prior_days_constant * prior_cv2_constant) / (days - 1 + prior_days_constant) as noise_cv2,
        burstiness * least(noise_cv2, 1) as erratic
    from noise
)

select
    series,
    spend_date,
    spend_usd,
    tomorrow_factor,
    days,
    active_days,
    day_number - last_active_day as days_since_spend,
    level_slow,
    level_fast,
    is_fast_level_used,
    noise_cv2 * day_noise_constant as day_noise,
    noise_cv2 * level_noise_constant * inverse_sample_size as level_noise,
    drift_30d_constant / 30 as drift_per_day,
    -- The first days of an erratic account say little about its level.
    floor_constant + {{ var('young_account_variance') }} * erratic / days as noise_floor,
    erratic,
    width_prior_constant as width_prior
from shrunk
