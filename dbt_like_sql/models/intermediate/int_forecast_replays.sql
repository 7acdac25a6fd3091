-- One row per series, past day and horizon (7, 14 and 30 days) whose horizon has passed since: what the forecast of that
-- day predicted for the sum of the days after it, what the plain 7-day mean predicted, and what was spent.
-- Guarantee: predictions use only the days up to `origin_date`. Days on which no date would have been given (status
-- accumulating or idle) are not replayed.

{% set horizons = [7, 14, 30] %}
{% set quantiles = {'p10': '-ln(9.0)', 'p50': '0.0', 'p90': 'ln(9.0)'} %}

with history as (
    select
        series,
        spend_date as origin_date,
        -- Mean of recent spend: what the plain rule repeats, and what a virtual balance is worth.
        avg(cast(spend_usd as double)) over (
            partition by series order by spend_date rows between 6 preceding and current row
        ) as mean_7d_usd,
        avg(cast(spend_usd as double)) over (
            partition by series order by spend_date rows between 27 preceding and current row
        ) as mean_28d_usd
        {%- for horizon in horizons %},
        case
            when count(*) filter (where is_known) over next_{{ horizon }} = {{ horizon }}
                then cast(sum(spend_usd) over next_{{ horizon }} as double)
        end as spent_{{ horizon }}
        {%- endfor %}
    from {{ ref('int_spend_history') }}
    inner join {{ ref('int_series') }} using (series)
    -- The first replayed day looks back four weeks.
    where spend_date > last_date - {{ var('forecast_replay_days') + 27 }}
    window
        {%- for horizon in horizons %}
        next_{{ horizon }} as (
            partition by series order by spend_date rows between 1 following and {{ horizon }} following
        ){{ ',' if not loop.last }}
        {%- endfor %}
),

-- Who has nothing left makes no prediction of when it will be gone.
used_up_nights as (
    select series.series, balance.balance_date as origin_date
    from {{ ref('daily_balance') }} as balance
    inner join {{ ref('int_series') }} as series on balance.account = series.account and series.key_hash is null
    where balance.balance_usd <= 0
),

nights as (
    select *
    from {{ ref('int_spend_forecast') }}
    anti join used_up_nights using (series, origin_date)
    where is_dated
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
    from nights as forecast
    inner join history using (series, origin_date)
    where history.spent_{{ horizon }} is not null and history.mean_28d_usd > 0
    {%- endfor %}
),

distributions as (
    select
        *,
        {{ spend_median('horizon_days') }} as median,
        {{ spend_log_scale('horizon_days') }} as log_scale
    from replays
),

predictions as (
    select
        *
        {%- for quantile, logit in quantiles.items() %},
        median * exp({{ logit }} * log_scale) as {{ quantile }}
        {%- endfor %}
    from distributions
)

select
    series,
    origin_date,
    cast(horizon_days as bigint) as horizon_days,
    {%- for quantile in quantiles %}
    {{ usd(quantile) }} as spend_{{ quantile }},
    {%- endfor %}
    {{ usd('flat') }} as flat_7d_spend,
    {{ usd('virtual_balance') }} as virtual_balance_usd,
    {{ probability_spent('virtual_balance', 'median', 'log_scale') }} as probability,
    {{ usd('spent') }} as spent_usd,
    spent between p10 and p90 as is_inside_80
from predictions
