-- One row per series and UTC day (the newest complete one and the replayed ones before it): the account's own record
-- at the close of that day, and what it means for the next forecast. Every forecast of a day and of a week whose span ended
-- within the last 180 days is compared with what was spent: that of each level alone, which sets the level's weight, and
-- that of all together, which sets the width. An error is a squared difference of logarithms over the variance that the
-- forecast claimed.
-- Guarantee: a forecast is judged as it was made, from the days before its span; no later day changes a row.

{% set history = var('forecast_history_days') %}
{% set levels = ['slow', 'fast'] %}
{% set windows = var('backtest_windows') %}
{% set prior = var('memory_weight_prior_days') %}

with logarithms as (
    select
        *,
        -- The floor only keeps the logarithm defined for an account without any spend; such days are not a test.
        {%- for level in levels %}
        ln(greatest(level_{{ level }}, 1e-300)) as log_{{ level }}{{ ',' if not loop.last }}
        {%- endfor %}
    from {{ ref('int_spend_levels') }}
),

middles as (
    select
        *,
        if(is_fast_level_used, (log_slow + log_fast) / 2, log_slow) as log_middle
    from logarithms
),

-- What was claimed at the close of each day for the spans that begin after it.
claims as (
    select
        series,
        spend_date,
        spend_usd,
        tomorrow_factor,
        is_fast_level_used,
        width_prior,
        -- Added to both sides of a ratio of spends.
        {{ var('backtest_floor') }} * exp(log_middle) as small,
        {%- for level in levels %}
        ln(level_{{ level }} + {{ var('backtest_floor') }} * exp(log_middle)) as log_{{ level }},
        {%- endfor %}
        log_middle + ln(1 + {{ var('backtest_floor') }}) as log_middle
        {%- for window in windows %},
        ln(1 + day_noise / {{ window }} + level_noise) + drift_per_day * {{ window }} + noise_floor
        + if(is_fast_level_used, power(log_slow - log_fast, 2) / 4, 0) as variance_{{ window }},
        active_days > 0 and days > 1
        and power(1 - active_days / days, {{ window }}) <= {{ var('backtest_max_idle_chance') }} as is_test_{{ window }}
        {%- endfor %}
    from middles
),

-- How the claims whose span ends here turned out. Over whole weeks the weekday factors sum to the number of days.
outcomes as (
    select
        series,
        spend_date,
        is_fast_level_used,
        width_prior
        {%- for window in windows %},
        coalesce(lag(is_test_{{ window }}, {{ window }}) over days, false) as is_test_{{ window }},
        lag(variance_{{ window }}, {{ window }}) over days as variance_{{ window }},
        {%- for level in levels + ['middle'] %}
        lag(log_{{ level }}, {{ window }}) over days as log_{{ level }}_{{ window }},
        {%- endfor %}
        ln(
            {% if window == 1 -%}
            cast(spend_usd as double) / lag(tomorrow_factor, 1) over days
            {%- else -%}
            cast(sum(spend_usd) over span_{{ window }} as double) / {{ window }}
            {%- endif %} + lag(small, {{ window }}) over days
        ) as log_spend_{{ window }}
        {%- endfor %}
    from claims
    window
        {%- for window in windows if window > 1 %}
        span_{{ window }} as (
            partition by series order by spend_date rows between {{ window - 1 }} preceding and current row
        ),
        {%- endfor %}
        days as (partition by series order by spend_date)
),

-- Overlapping spans repeat the same evidence: each counts for one over its length. Decimals give the same sum in any
-- order.
judgements as (
    select
        series,
        spend_date,
        is_fast_level_used,
        width_prior,
        cast(
            {%- for window in windows %}
            {{ '+ ' if not loop.first }}if(is_test_{{ window }}, 1.0 / {{ window }}, 0)
            {%- endfor %}
            as decimal(18, 12)
        ) as judged_days
        {%- for level in levels + ['middle'] %},
        cast(
            {%- for window in windows %}
            {{ '+ ' if not loop.first }}if(
                is_test_{{ window }},
                least(
                    power(log_spend_{{ window }} - log_{{ level }}_{{ window }}, 2) / variance_{{ window }},
                    {{ var('backtest_max_error') }}
                ) / {{ window }},
                0
            )
            {%- endfor %}
            as decimal(18, 12)
        ) as error_{{ level }}
        {%- endfor %}
    from outcomes
),

records as (
    select
        series,
        spend_date,
        is_fast_level_used,
        width_prior,
        cast(sum(judged_days) over recent as double) as judged_days
        {%- for level in levels + ['middle'] %},
        cast(sum(error_{{ level }}) over recent as double) as error_{{ level }}
        {%- endfor %}
    from judgements
    window recent as (
        partition by series order by spend_date rows between {{ history - 1 }} preceding and current row
    )
    -- No forecast is replayed for the days before these. Days follow one another without a gap, so this filter is cheaper
    -- than looking for the last day.
    qualify lead(spend_date, {{ var('forecast_replay_days') }}) over (partition by series order by spend_date) is null
),

-- The better a level did, the more it counts: (mean squared error) ^ -4, errors of 1 standing in for the unseen past.
weights as (
    select
        *
        {%- for level in levels %},
        {{ 'if(is_fast_level_used, 1, 0) * ' if level == 'fast' -}}
        power((error_{{ level }} + {{ prior }}) / (judged_days + {{ prior }}), -{{ var('memory_weight_power') }})
            as weight_{{ level }}
        {%- endfor %}
    from records
)

select
    series,
    spend_date,
    weight_fast / (weight_slow + weight_fast) as share_fast,
    (width_prior + error_middle) / (width_prior + judged_days) as width_factor
from weights
