{# The sum of the `days` days after a close is log-logistic, see int_spend_forecast; `days` is SQL, a number from 1 on.
   `forecast` is a prefix such as 'nights.' of its columns. #}

{# Median of the sum, USD. #}
{% macro spend_median(days, forecast='') -%}
    {{ forecast }}level_usd * ({{ days }} // 7 * 7 + {{ forecast }}factor_sums[{{ days }} % 7 + 1])
{%- endmacro %}

{# Scale of the logarithm of the sum: a quantile is median · exp(scale · ln(p / (1 - p))). Drift may be that of another
   number of days: noise falls with the horizon, drift grows, so a bound needs both. #}
{% macro spend_log_scale(days, drift_days=none, forecast='') -%}
    sqrt(
        {{ forecast }}width_factor * (
            ln(1 + {{ forecast }}day_noise / {{ days }} + {{ forecast }}level_noise)
            + {{ forecast }}drift_per_day * {{ drift_days or days }} + {{ forecast }}noise_floor
        ) + {{ forecast }}disagreement
    ) / {{ var('logistic_scale') }}
{%- endmacro %}

{# Probability that the sum is at least `balance` (DOUBLE, above zero). #}
{% macro probability_spent(balance, median, log_scale) -%}
    1 / (1 + exp(least(ln({{ balance }} / ({{ median }})) / ({{ log_scale }}), 700)))
{%- endmacro %}
