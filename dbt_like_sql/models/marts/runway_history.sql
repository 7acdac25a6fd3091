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
        balance.account,
        balance.balance_date as as_of_date,
        balance.balance_usd,
        cast(balance.balance_usd as double) as balance,
        forecast.* exclude (series, origin_date)
    from {{ ref('daily_balance') }} as balance
    left join {{ ref('int_series') }} as series on balance.account = series.account and series.key_hash is null
    left join {{ ref('int_spend_forecast') }} as forecast
        on series.series = forecast.series
        and balance.balance_date = forecast.origin_date
    where balance.balance_usd is not null
    qualify row_number() over (partition by balance.account order by balance.balance_date desc)
        <= {{ var('runway_history_days') }}
),

-- Weekdays move a quantile by less than a week from where it lies without them; the level lies between its two ends.
medians as (
    select
        *,
        {{ spend_level('1') }} as level_tomorrow,
        {{ spend_level(horizon) }} as level_at_horizon,
        balance / greatest(level_tomorrow, level_at_horizon) as first_median_day,
        balance / least(level_tomorrow, level_at_horizon) as last_median_day,
        least(last_median_day + 7, {{ horizon }}) as late_median_day,
        greatest(first_median_day - 7, 1) as early_median_day,
        power(level_gap, 2) / 4 as most_disagreement
    from nights
    where is_dated and balance > 0
),

-- Noise falls with the horizon and drift grows: with the most of both on either side, P10 lies after the first day and P90
-- before the last one. There is no need to look further.
bounds as (
    select
        *,
        first_median_day * exp(-ln(9.0) * {{ spend_log_scale('1', 'late_median_day', 'most_disagreement') }}) - 7
            as first_day,
        least(
            last_median_day * exp(ln(9.0) * {{ spend_log_scale('early_median_day', horizon, 'most_disagreement') }}) + 7,
            {{ horizon }}
        ) as far_day,
        last_median_day * exp(ln(9.0) * {{ spend_log_scale('early_median_day', 'far_day', 'most_disagreement') }}) + 7
            as last_day
    from medians
),

days_ahead as (
    select
        *,
        unnest(range(
            cast(least(greatest(first_day, 1), {{ horizon }}) as bigint),
            cast(least(last_day, {{ horizon }}) as bigint) + 1
        )) as day_ahead
    from bounds
),

distances as (
    select
        account,
        as_of_date,
        day_ahead,
        ln({{ spend_median('day_ahead') }} / balance) as log_spend_over_balance,
        {{ spend_log_scale('day_ahead') }} as log_scale
    from days_ahead
),

quantile_days as (
    select
        account,
        as_of_date
        {%- for quantile, logit in quantiles.items() %},
        cast(min(day_ahead) filter (where log_spend_over_balance >= {{ logit }} * log_scale) as bigint)
            as days_left_{{ quantile }}
        {%- endfor %}
    from distances
    group by account, as_of_date
),

running_totals as (
    select
        account,
        spend_date,
        sum(if(is_complete, spend_usd, 0)) over (
            partition by account order by spend_date rows unbounded preceding
        ) as total_usd
    from {{ ref('daily_spend') }}
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

next_days as (
    select
        account,
        as_of_date,
        {{ spend_median('1') }} as p50,
        p50 * exp(ln(99.0) * {{ spend_log_scale('1') }}) as p99
    from nights
)

select
    nights.account,
    nights.as_of_date,
    nights.balance_usd
    {%- for quantile in quantiles %},
    quantile_days.days_left_{{ quantile }}
    {%- endfor %}
    {%- for quantile in quantiles %},
    nights.as_of_date + cast(quantile_days.days_left_{{ quantile }} as integer) as run_out_{{ quantile }}
    {%- endfor %},
    {{ usd('next_days.p50') }} as next_day_p50_usd,
    {{ usd('next_days.p99') }} as next_day_p99_usd,
    next_day.spend_usd as next_day_spend_usd,
    used_up_nights.used_up_date
from nights
inner join next_days using (account, as_of_date)
left join quantile_days using (account, as_of_date)
left join used_up_nights using (account, as_of_date)
left join {{ ref('daily_spend') }} as next_day
    on nights.account = next_day.account
    and nights.as_of_date + 1 = next_day.spend_date
    and next_day.is_complete
order by nights.account, nights.as_of_date
