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

{# Every day of every series that is forecast: of the accounts (key_hash is null) and of the keys with a limit. #}
{% macro series_days() -%}
    select account, cast(null as varchar) as key_hash, spend_date, spend_usd, is_complete,
        method <> 'interpolated' or readings > 0 as is_measured
    from {{ ref('daily_spend') }}
    union all
    select account, key_hash, spend_date, spend_usd, is_complete, is_measured
    from {{ ref('int_key_spend') }}
    where has_limit
{%- endmacro %}

{# How accurate the replayed forecasts were: one row per account (or account and key) and horizon. `columns` name the series. #}
{% macro replay_accuracy(columns, which) -%}
-- A level and its complement: 1 - 0.9 in floating point has 17 digits, and the sum would run in 128-bit arithmetic.
{% set quantiles = {'p10': [0.1, 0.9], 'p50': [0.5, 0.5], 'p90': [0.9, 0.1]} %}

with replays as (
    -- Wider than money: the losses of an account of a hundred million would fail the build for all.
    select
        {{ columns }},
        replays.* replace (cast(replays.spent_usd as decimal(28, 9)) as spent_usd)
    from {{ ref('int_forecast_replays') }} as replays
    inner join {{ ref('int_series') }} as series using (series)
    where {{ which }}
),

losses as (
    select
        {{ columns }},
        horizon_days,
        is_inside_80,
        -- Decimals give the same sum in any order.
        (
            {%- for quantile, (level, complement) in quantiles.items() %}
            {{ '+ ' if not loop.first }}greatest(
                {{ level }} * (spent_usd - spend_{{ quantile }}), {{ complement }} * (spend_{{ quantile }} - spent_usd)
            )
            {%- endfor %}
        ) / 3 as pinball,
        -- One figure for all quantiles: its losses at P10, P50 and P90 average to half its absolute error.
        abs(spent_usd - flat_7d_spend) * 0.5 as flat_pinball,
        spent_usd = flat_7d_spend as is_flat_right,
        cast(
            power(probability - if(spent_usd >= virtual_balance_usd, 1, 0), 2) as decimal(18, 17)
        ) as squared_error,
        if((flat_7d_spend >= virtual_balance_usd) = (spent_usd >= virtual_balance_usd), 0, 1) as flat_squared_error
    from replays
)

select
    {{ columns }},
    horizon_days,
    count(*) as replays,
    count(*) filter (where is_inside_80) / count(*) as coverage_80,
    cast(avg(pinball) as decimal(18, 9)) as pinball_loss_usd,
    avg(squared_error) as brier_score,
    count(*) filter (where is_flat_right) / count(*) as flat_7d_coverage_80,
    cast(avg(flat_pinball) as decimal(18, 9)) as flat_7d_pinball_loss_usd,
    avg(flat_squared_error) as flat_7d_brier_score
from losses
group by {{ columns }}, horizon_days
order by {{ columns }}, horizon_days
{%- endmacro %}
