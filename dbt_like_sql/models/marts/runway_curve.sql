-- One row per account and day ahead, 1 to 365: the probability that the credits are gone by the end of that day. For every
-- account with two complete days and some spend, whatever its status. Spend is never negative, so "gone within h days" is
-- the same as "h days cost at least the balance": one distribution, of the sum of h days, gives dates, fan and alerts.
-- Guarantee: the probability never falls with the horizon; no date lies before the day of the newest reading; an account
-- whose credits are used up has 1 throughout, one that spent nothing for half a year has 0.

with starts as (
    select
        place.account,
        place.series,
        place.as_of,
        place.close_date,
        place.status = 'exhausted' or place.balance_at_close_usd <= 0 as is_gone,
        case when place.balance_at_close_usd > 0 then cast(place.balance_at_close_usd as double) end as balance,
        forecast.* exclude (series, origin_date)
    from {{ ref('int_runway_position') }} as place
    left join {{ ref('int_spend_forecast') }} as forecast
        on place.series = forecast.series
        and place.last_complete_date = forecast.origin_date
    where place.history_days >= 2 and place.days_with_spend > 0
),

days as (
    select
        account,
        series,
        as_of,
        close_date,
        day_ahead,
        case
            when is_gone then 1
            when level_usd is null then 0
            else {{ probability_spent('balance', spend_median('day_ahead'), spend_log_scale('day_ahead')) }}
        end as probability
    from starts
    cross join range(1, {{ var('forecast_horizon_days') + 1 }}) as horizon (day_ahead)
)

select
    account,
    as_of,
    day_ahead,
    close_date + cast(day_ahead as integer) as run_out_date,
    -- More days never make it less likely; a wider distribution alone might, slightly, where it is almost certain.
    max(probability) over (partition by series order by day_ahead rows unbounded preceding) as probability
from days
-- In the order of the accounts.
order by series, day_ahead
