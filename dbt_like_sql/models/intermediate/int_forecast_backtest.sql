-- One row per account and UTC day: the account's own record at the close of that day. Every forecast of a day and of a
-- week whose span ended within the last 180 days is held against what was spent: that of each level alone, which gives the
-- level its say, and that of all together, which gives the width. An error is a squared difference of logarithms over
-- the variance that the forecast claimed.
-- Guarantee: a forecast is judged as it was made, from the days before its span; no later day moves a row.

{% set history = var('forecast_history_days') %}
{% set levels = ['slow', 'fast'] %}
{% set windows = var('backtest_windows') %}
{% set small = var('backtest_floor') %}

with logarithms as (
    select
        *,
        -- The floor only keeps the logarithm of an account without any spend defined; such days are no test.
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
        *,
        exp(log_middle) as middle
        {%- for window in windows %},
        ln(1 + day_noise / {{ window }} + level_noise) + drift_per_day * {{ window }} + noise_floor
        + if(is_fast_level_used, power(log_slow - log_fast, 2) / 4, 0) as variance_{{ window }},
        active_days > 0 and days > 1
        and power(1 - active_days / days, {{ window }}) <= {{ var('backtest_max_idle_chance') }} as is_test_{{ window }}
        {%- endfor %}
    from middles
),

-- What came of the claims whose span ends here. Over whole weeks the weekday factors sum to the number of days.
outcomes as (
    select
        account,
        spend_date
        {%- for window in windows %},
        coalesce(lag(is_test_{{ window }}, {{ window }}) over days, false) as is_test_{{ window }},
        lag(variance_{{ window }}, {{ window }}) over days as variance_{{ window }},
        {%- for level in levels %}
        lag(level_{{ level }}, {{ window }}) over days as {{ level }}_{{ window }},
        {%- endfor %}
        lag(middle, {{ window }}) over days as middle_{{ window }},
        cast(spend_to_date_usd - lag(spend_to_date_usd, {{ window }}) over days as double)
        / {{ 'lag(tomorrow_factor, 1) over days' if window == 1 else window }} as daily_spend_{{ window }}
        {%- endfor %}
    from claims
    window days as (partition by account order by spend_date)
),

-- Overlapping spans tell the same story several times: each counts for one over its length. Decimals add up to the
-- same sum in any order.
judgements as (
    select
        account,
        spend_date,
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
                    power(
                        ln(
                            (daily_spend_{{ window }} + {{ small }} * middle_{{ window }})
                            / ({{ level }}_{{ window }} + {{ small }} * middle_{{ window }})
                        ), 2
                    ) / variance_{{ window }},
                    {{ var('backtest_max_error') }}
                ) / {{ window }},
                0
            )
            {%- endfor %}
            as decimal(18, 12)
        ) as error_{{ level }}
        {%- endfor %}
    from outcomes
)

select
    account,
    spend_date,
    cast(sum(judged_days) over recent as double) as judged_days
    {%- for level in levels + ['middle'] %},
    cast(sum(error_{{ level }}) over recent as double) as error_{{ level }}
    {%- endfor %}
from judgements
window recent as (
    partition by account order by spend_date rows between {{ history - 1 }} preceding and current row
)
