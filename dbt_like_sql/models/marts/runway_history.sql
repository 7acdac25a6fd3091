-- One row per account and each of the last 90 days whose balance at the close is known: the forecast as it would have been
-- made that night, from the days up to it; what the next day then cost; and when that balance was used up.
-- Guarantee: no later spend changes a forecast (a balance between two distant readings is interpolated, see daily_balance).
-- Quantiles are null where that night's status would have been accumulating or idle, and beyond the horizon. No date
-- lies before the day after `as_of_date`.

{% set horizon = var('forecast_horizon_days') %}
-- Above a billion USD nobody plans by the cent: the largest DECIMAL(18,9), nearly.
{% set most_usd = 999999999.0 %}
-- ln(p / (1 - p)) of P10, P50 and P90.
{% set quantiles = {'p10': '-ln(9.0)', 'p50': '0.0', 'p90': 'ln(9.0)'} %}

with nights as (
    select
        balance.account,
        balance.balance_date as as_of_date,
        balance.balance_usd,
        cast(balance.balance_usd as double) as balance,
        forecast.* exclude (account, origin_date),
        -- The largest variance of the logarithm at any horizon, or a little more.
        width_factor * (ln(1 + day_noise + level_noise) + drift_per_day * {{ horizon }} + noise_floor) + disagreement
            as most_variance
    from {{ ref('daily_balance') }} as balance
    left join {{ ref('int_spend_forecast') }} as forecast
        on balance.account = forecast.account
        and balance.balance_date = forecast.origin_date
    where balance.balance_usd is not null
    qualify row_number() over (partition by balance.account order by balance.balance_date desc)
        <= {{ var('runway_history_days') }}
),

reach as (
    select
        *,
        -- The P90 day lies before this one: there is no need to look further.
        cast(least(
            balance / level_usd * exp(ln(9.0) / {{ var('logistic_scale') }} * sqrt(most_variance)) + 7, {{ horizon }}
        ) as bigint) as last_day
    from nights
    where is_dated and balance > 0
),

days_ahead as (
    select
        *,
        unnest(range(1, last_day + 1)) as day_ahead
    from reach
),

reaches as (
    select
        account,
        as_of_date,
        day_ahead,
        ln(level_usd * (day_ahead // 7 * 7 + factor_sums[day_ahead % 7 + 1]) / balance) as log_spend_over_balance,
        sqrt(
            width_factor * (ln(1 + day_noise / day_ahead + level_noise) + drift_per_day * day_ahead + noise_floor)
            + disagreement
        ) / {{ var('logistic_scale') }} as log_scale
    from days_ahead
),

quantile_days as (
    select
        account,
        as_of_date
        {%- for quantile, logit in quantiles.items() %},
        min(day_ahead) filter (where log_spend_over_balance >= {{ logit }} * log_scale) as days_left_{{ quantile }}
        {%- endfor %}
    from reaches
    group by account, as_of_date
),

running_totals as (
    select
        account,
        spend_date,
        sum(spend_usd) over (partition by account order by spend_date rows unbounded preceding) as total_usd
    from {{ ref('daily_spend') }}
    where is_complete
),

totals as (
    select
        *,
        -- Not the newest total: corrections can lower it again.
        max(total_usd) over (
            partition by account order by spend_date rows between 1 following and unbounded following
        ) as most_usd
    from running_totals
),

used_up_nights as (
    select
        nights.account,
        nights.as_of_date,
        min(later.spend_date) as used_up_date
    from nights
    inner join totals
        on nights.account = totals.account
        and nights.as_of_date = totals.spend_date
        and totals.most_usd - totals.total_usd >= nights.balance_usd
    inner join totals as later
        on nights.account = later.account
        and nights.as_of_date < later.spend_date
        and later.total_usd - totals.total_usd >= nights.balance_usd
    where nights.balance_usd > 0
    group by nights.account, nights.as_of_date
),

forecasts as (
    select
        nights.account,
        nights.as_of_date,
        nights.balance_usd,
        used_up_nights.used_up_date
        {%- for quantile in quantiles %},
        cast(
            case
                when nights.balance_usd <= 0 then 1
                else quantile_days.days_left_{{ quantile }}
            end as bigint
        ) as days_left_{{ quantile }}
        {%- endfor %},
        nights.level_usd * nights.factor_sums[2] as next_day_p50,
        next_day_p50 * exp(ln(99.0) * sqrt(
            nights.width_factor
            * (ln(1 + nights.day_noise + nights.level_noise) + nights.drift_per_day + nights.noise_floor)
            + nights.disagreement
        ) / {{ var('logistic_scale') }}) as next_day_p99
    from nights
    left join quantile_days using (account, as_of_date)
    left join used_up_nights using (account, as_of_date)
)

select
    forecasts.account,
    forecasts.as_of_date,
    forecasts.balance_usd
    {%- for quantile in quantiles %},
    forecasts.days_left_{{ quantile }}
    {%- endfor %}
    {%- for quantile in quantiles %},
    forecasts.as_of_date + cast(forecasts.days_left_{{ quantile }} as integer) as run_out_{{ quantile }}
    {%- endfor %},
    -- Not least(): it would make a billion of what is not known.
    cast(if(next_day_p50 > {{ most_usd }}, {{ most_usd }}, next_day_p50) as decimal(18, 9)) as next_day_p50_usd,
    cast(if(next_day_p99 > {{ most_usd }}, {{ most_usd }}, next_day_p99) as decimal(18, 9)) as next_day_p99_usd,
    next_day.spend_usd as next_day_spend_usd,
    forecasts.used_up_date
from forecasts
left join {{ ref('daily_spend') }} as next_day
    on forecasts.account = next_day.account
    and forecasts.as_of_date + 1 = next_day.spend_date
    and next_day.is_complete
order by forecasts.account, forecasts.as_of_date
