-- One row per account and day of the month (5th, 10th, 15th, 20th, 25th): how accurate month_outlook was at the close of
-- that day, replayed for the past months of which every day is known and that began within the replayed days, compared
-- with extrapolating the month's mean so far.
-- Guarantee: every replay uses only the days up to its own; something was left that night. The median and the interval
-- are those of the horizon itself: unlike those of balance_forecast they may fall when it grows, which is rare.

{% set origin_days = [5, 10, 15, 20, 25] %}
{% set quantiles = {'p10': ['-ln(9.0)', 0.1, 0.9], 'p50': ['0.0', 0.5, 0.5], 'p90': ['ln(9.0)', 0.9, 0.1]} %}

with months as (
    select
        account,
        cast(date_trunc('month', spend_date) as date) as month,
        cast(sum(spend_usd) as double) as month_usd
        {%- for day in origin_days %},
        cast(sum(spend_usd) filter (where day(spend_date) <= {{ day }}) as double) as spent_{{ day }}
        {%- endfor %}
    from {{ ref('daily_spend') }}
    where is_complete
    group by account, date_trunc('month', spend_date)
    having count(*) = day(last_day(any_value(spend_date)))
),

nights as (
    select
        account,
        month,
        month_usd,
        unnest([
            {%- for day in origin_days %}
            {'origin_day': {{ day }}, 'spent_usd': spent_{{ day }}}{{ ',' if not loop.last }}
            {%- endfor %}
        ], recursive := true)
    from months
),

origins as (
    select
        account,
        cast(origin_day as bigint) as origin_day,
        month + origin_day - 1 as origin_date,
        day(last_day(month)) - origin_day as days_left,
        spent_usd,
        month_usd
    from nights
),

used_up_nights as (
    select account, balance_date as origin_date
    from {{ ref('daily_balance') }}
    where balance_usd <= 0
),

replays as (
    select
        origins.*,
        {{ spend_median('days_left', 'forecast.') }} as median,
        {{ spend_log_scale('days_left', forecast='forecast.') }} * {{ var('money_width') }} as log_scale
    from origins
    inner join {{ ref('int_series') }} as series on origins.account = series.account and series.key_hash is null
    inner join {{ ref('int_spend_forecast') }} as forecast using (series, origin_date)
    anti join used_up_nights
        on origins.account = used_up_nights.account and origins.origin_date = used_up_nights.origin_date
    where forecast.is_dated
),

predictions as (
    select
        *
        {%- for quantile, (logit, level, complement) in quantiles.items() %},
        spent_usd + median * exp({{ logit }} * log_scale) as month_{{ quantile }}
        {%- endfor %},
        spent_usd * (origin_day + days_left) / origin_day as run_rate_usd
    from replays
),

losses as (
    select
        account,
        origin_day,
        month_usd between month_p10 and month_p90 as is_inside_80,
        -- Decimals give the same mean in any order.
        cast(
            (
                {%- for quantile, (logit, level, complement) in quantiles.items() %}
                {{ '+ ' if not loop.first }}greatest(
                    {{ level }} * (month_usd - month_{{ quantile }}), {{ complement }} * (month_{{ quantile }} - month_usd)
                )
                {%- endfor %}
            ) / 3 as decimal(28, 9)
        ) as pinball,
        -- One figure for all quantiles: its losses at P10, P50 and P90 average to half its absolute error.
        cast(abs(month_usd - run_rate_usd) / 2 as decimal(28, 9)) as run_rate_pinball
    from predictions
)

select
    account,
    origin_day,
    count(*) as replays,
    count(*) filter (where is_inside_80) / count(*) as coverage_80,
    {{ usd('avg(pinball)') }} as pinball_loss_usd,
    {{ usd('avg(run_rate_pinball)') }} as run_rate_pinball_loss_usd
from losses
group by account, origin_day
order by account, origin_day
