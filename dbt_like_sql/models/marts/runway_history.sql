-- One row per account and each of the last 90 days whose balance at the close is known: the forecast as it would have been
-- made that night, from the days up to it; what the next day then cost; and when that balance was used up.
-- Guarantee: no later spend changes a forecast (a balance between two distant readings is interpolated, see daily_balance).
-- Quantiles are null where that night's status would have been accumulating or idle, where nothing was left, and beyond
-- the horizon. No date lies before the day after `as_of_date`.

{% set horizon = var('forecast_horizon_days') %}
-- ln(p / (1 - p)) of P10, P50 and P90.
{% set quantiles = {'p10': '-ln(9.0)', 'p50': '0.0', 'p90': 'ln(9.0)'} %}

with nights as (
    select
        series.account,
        series.series,
        balance.balance_date as as_of_date,
        balance.balance_usd,
        cast(balance.balance_usd as double) as balance
    from {{ ref('daily_balance') }} as balance
    inner join {{ ref('int_series') }} as series on balance.account = series.account and series.key_hash is null
    where balance.balance_usd is not null
    qualify row_number() over (partition by series.series order by balance.balance_date desc)
        <= {{ var('runway_history_days') }}
),

forecasts as (
    select
        nights.*,
        forecast.* exclude (series, origin_date)
    from nights
    left join {{ ref('int_spend_forecast') }} as forecast
        on nights.series = forecast.series
        and nights.as_of_date = forecast.origin_date
),

medians as (
    select
        *,
        {{ median_day('balance', 'greatest') }} as first_median_day,
        {{ median_day('balance', 'least') }} as last_median_day,
        least(last_median_day + 7, {{ horizon }}) as late_median_day,
        greatest(first_median_day - 7, 1) as early_median_day,
        level_gap * level_gap / 4 as most_disagreement
    from forecasts
    where is_dated and balance > 0
),

-- Noise falls with the horizon and drift grows: with the most of both on either side, P10 lies after the first day and P90
-- before the last one; a second step from there is nearer. There is no need to look further.
bounds as (
    select
        *,
        greatest(
            first_median_day * exp(-ln(9.0) * {{ spend_log_scale('1', 'late_median_day', 'most_disagreement') }}) - 7, 1
        ) as near_day,
        first_median_day * exp(-ln(9.0) * {{ spend_log_scale('near_day', 'late_median_day', 'most_disagreement') }}) - 7
            as first_day,
        least(
            last_median_day * exp(ln(9.0) * {{ spend_log_scale('early_median_day', horizon, 'most_disagreement') }}) + 7,
            {{ horizon }}
        ) as far_day,
        last_median_day * exp(ln(9.0) * {{ spend_log_scale('early_median_day', 'far_day', 'most_disagreement') }}) + 7
            as last_day
    from medians
),

distances as (
    select
        series,
        as_of_date,
        {{ days_ahead_between('first_day', 'last_day') }} as day_ahead,
        ln({{ spend_median('day_ahead') }} / balance) as log_spend_over_balance,
        {{ spend_log_scale('day_ahead') }} as log_scale
    from bounds
),

quantile_days as (
    select
        series,
        as_of_date
        {%- for quantile, logit in quantiles.items() %},
        cast(min(day_ahead) filter (where log_spend_over_balance >= {{ logit }} * log_scale) as bigint)
            as days_left_{{ quantile }}
        {%- endfor %}
    from distances
    group by series, as_of_date
),

first_nights as (
    select
        account,
        series,
        min(as_of_date) as first_date
    from nights
    group by account, series
),

running_totals as (
    select
        first_nights.series,
        spend.spend_date,
        if(spend.is_complete, spend.spend_usd, null) as spend_usd,
        sum(if(spend.is_complete, spend.spend_usd, 0)) over (
            partition by first_nights.series order by spend.spend_date rows unbounded preceding
        ) as total_usd
    from {{ ref('daily_spend') }} as spend
    inner join first_nights
        on spend.account = first_nights.account
        and spend.spend_date >= first_nights.first_date
),

totals as (
    select
        *,
        -- Not the newest total: corrections can lower it again.
        max(total_usd) over (
            partition by series order by spend_date rows between 1 following and unbounded following
        ) as most_usd,
        lead(spend_usd) over (partition by series order by spend_date) as next_day_spend_usd
    from running_totals
),

outcomes as (
    select
        nights.series,
        nights.as_of_date,
        nights.balance_usd,
        totals.total_usd + nights.balance_usd as total_when_used_up,
        totals.most_usd >= total_when_used_up and nights.balance_usd > 0 as is_used_up,
        totals.next_day_spend_usd
    from nights
    inner join totals
        on nights.series = totals.series
        and nights.as_of_date = totals.spend_date
),

used_up_nights as (
    select
        outcomes.series,
        outcomes.as_of_date,
        min(later.spend_date) as used_up_date
    from outcomes
    inner join totals as later
        on outcomes.series = later.series
        and outcomes.as_of_date < later.spend_date
        and later.total_usd >= outcomes.total_when_used_up
    where outcomes.is_used_up
    group by outcomes.series, outcomes.as_of_date
)

select
    forecasts.account,
    forecasts.as_of_date,
    forecasts.balance_usd
    {%- for quantile in quantiles %},
    quantile_days.days_left_{{ quantile }}
    {%- endfor %}
    {%- for quantile in quantiles %},
    forecasts.as_of_date + cast(quantile_days.days_left_{{ quantile }} as integer) as run_out_{{ quantile }}
    {%- endfor %},
    {{ usd(spend_median('1', 'forecasts.')) }} as next_day_p50_usd,
    {{ usd(spend_median('1', 'forecasts.') ~ ' * exp(ln(99.0) * ' ~ spend_log_scale('1', forecast='forecasts.') ~ ')') }}
        as next_day_p99_usd,
    outcomes.next_day_spend_usd,
    used_up_nights.used_up_date
from forecasts
inner join outcomes using (series, as_of_date)
left join quantile_days using (series, as_of_date)
left join used_up_nights using (series, as_of_date)
-- In the order of the accounts.
order by forecasts.series, forecasts.as_of_date
