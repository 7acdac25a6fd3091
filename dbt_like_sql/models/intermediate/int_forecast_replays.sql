-- One row per account, past day and horizon (7, 14 and 30 days) whose horizon has passed since: what the forecast of that
-- day predicted for the sum of the days after it, what the plain 7-day mean predicted, and what was spent.
-- Guarantee: predictions use only the days up to `origin_date`. Days on which no date would have been given (status
-- accumulating or idle) are not replayed.

{% set horizons = [7, 14, 30] %}
{% set quantiles = {'p10': '-ln(9.0)', 'p50': '0.0', 'p90': 'ln(9.0)'} %}

with history as (
    select
        account,
        spend_date as origin_date,
        -- Mean of recent spend: what the plain rule repeats, and what a virtual balance is worth.
        avg(cast(spend_usd as double)) over (
            partition by account order by spend_date rows between 6 preceding and current row
        ) as mean_7d_usd,
        avg(cast(spend_usd as double)) over (
            partition by account order by spend_date rows between 27 preceding and current row
        ) as mean_28d_usd
        {%- for horizon in horizons %},
        case
            when lead(spend_date, {{ horizon }}) over (partition by account order by spend_date) is not null
                then cast(sum(spend_usd) over (
                    partition by account order by spend_date rows between 1 following and {{ horizon }} following
                ) as double)
        end as spent_{{ horizon }}
        {%- endfor %}
    from {{ ref('int_spend_history') }}
),

replays as (
    {%- for horizon in horizons %}
    {{ 'union all' if not loop.first }}
    select
        forecast.*,
        {{ horizon }} as horizon_days,
        history.spent_{{ horizon }} as spent,
        history.mean_7d_usd * {{ horizon }} as flat,
        history.mean_28d_usd * {{ horizon }} as virtual_balance
    from {{ ref('int_spend_forecast') }} as forecast
    inner join history using (account, origin_date)
    where forecast.is_dated and history.spent_{{ horizon }} is not null
    {%- endfor %}
),

distributions as (
    select
        *,
        level_usd * (horizon_days // 7 * 7 + factor_sums[horizon_days % 7 + 1]) as median,
        sqrt(
            width_factor * (ln(1 + day_noise / horizon_days + level_noise) + drift_per_day * horizon_days + noise_floor)
            + disagreement
        ) / {{ var('logistic_scale') }} as log_scale
    from replays
),

said as (
    select
        *
        {%- for quantile, logit in quantiles.items() %},
        median * exp({{ logit }} * log_scale) as {{ quantile }}
        {%- endfor %},
        case
            when virtual_balance > 0
                then 1 / (1 + exp(least(-ln(median / virtual_balance) / log_scale, 700)))
            else 1
        end as probability
    from distributions
)

select
    account,
    origin_date,
    cast(horizon_days as bigint) as horizon_days,
    {%- for quantile in quantiles %}
    cast(least({{ quantile }}, 999999999.0) as decimal(18, 9)) as spend_{{ quantile }},
    {%- endfor %}
    cast(least(flat, 999999999.0) as decimal(18, 9)) as flat_7d_spend,
    cast(least(virtual_balance, 999999999.0) as decimal(18, 9)) as virtual_balance_usd,
    probability,
    cast(least(spent, 999999999.0) as decimal(18, 9)) as spent_usd,
    spent between p10 and p90 as is_inside_80
from said
