{# The sum of the `days` days after a close is log-logistic, see int_spend_forecast; `days` is SQL, a number from 1 on.
   `forecast` is a prefix such as 'nights.' of its columns. #}

{# Share of the fast level in the level: share_fast a week ahead, less further ahead where spend is bursty. #}
{% macro spend_share_fast(days, forecast='') -%}
    {{ forecast }}share_fast
    / ({{ forecast }}share_fast + (1 - {{ forecast }}share_fast) * power(({{ days }}) / 7.0, {{ forecast }}fade))
{%- endmacro %}

{# What an average one of these days costs, USD. It only rises or only falls with the horizon. #}
{% macro spend_level(days, forecast='') -%}
    {{ forecast }}level_usd
    * exp({{ forecast }}level_gap * ({{ spend_share_fast(days, forecast) }} - {{ forecast }}share_fast))
{%- endmacro %}

{# Median of the sum, USD. #}
{% macro spend_median(days, forecast='') -%}
    {{ spend_level(days, forecast) }} * ({{ days }} // 7 * 7 + {{ forecast }}factor_sums[{{ days }} % 7 + 1])
{%- endmacro %}

{# Disagreement between the levels is uncertainty too: after a change of regime the interval widens by itself. #}
{% macro spend_disagreement(days, forecast='') -%}
    {{ forecast }}level_gap * {{ forecast }}level_gap * {{ spend_share_fast(days, forecast) }}
    * (1 - {{ spend_share_fast(days, forecast) }})
{%- endmacro %}

{# Scale of the logarithm of the sum: a quantile is median · exp(scale · ln(p / (1 - p))). Drift may be that of another
   number of days, and the disagreement another one: noise falls with the horizon, drift grows, so a bound needs both. #}
{% macro spend_log_scale(days, drift_days=none, disagreement=none, forecast='') -%}
    sqrt(
        {{ forecast }}width_factor * (
            ln(1 + {{ forecast }}day_noise / {{ days }} + {{ forecast }}level_noise)
            + {{ forecast }}drift_per_day * {{ drift_days or days }} + {{ forecast }}noise_floor
        ) + {{ disagreement or spend_disagreement(days, forecast) }}
    ) / {{ var('logistic_scale') }}
{%- endmacro %}

{# Probability that the sum is at least `balance` (DOUBLE, above zero). #}
{% macro probability_spent(balance, median, log_scale) -%}
    1 / (1 + exp(least(ln({{ balance }} / ({{ median }})) / ({{ log_scale }}), 700)))
{%- endmacro %}

{# Without weekdays, the median of spend reaches `balance` on the day `balance / level`, where the level lies between its two
   ends: `which` is 'greatest' for a day that comes no later, 'least' for one that comes no earlier. Weekdays move it by
   less than a week. #}
{% macro median_day(balance, which, forecast='') -%}
    {{ balance }} / {{ which }}({{ spend_level('1', forecast) }}, {{ spend_level(var('forecast_horizon_days'), forecast) }})
{%- endmacro %}

{# One row per day ahead from `first_day` to `last_day`, any numbers, within the horizon. #}
{% macro days_ahead_between(first_day, last_day) -%}
    unnest(range(
        cast(least(greatest({{ first_day }}, 1), {{ var('forecast_horizon_days') }}) as bigint),
        cast(least({{ last_day }}, {{ var('forecast_horizon_days') }}) as bigint) + 1
    ))
{%- endmacro %}
