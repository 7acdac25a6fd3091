-- One row per account and day ahead: the fan. What is spent from the close at which the forecast begins to the end of that
-- day (quantiles of the same distribution as runway_curve), and the balance that this leaves.
-- Guarantee: for every account of runway_curve. Where credits are left, balance_p10 reaches zero on exactly the day whose
-- probability in runway_curve reaches 0.10, and so for p50 and p90. Spend quantiles never fall with the horizon, and are
-- zero after half a year without spend. No further top-up is assumed, and a balance is not clamped at zero.

-- ln(p / (1 - p)) of P10, P50 and P90.
{% set quantiles = {'p10': 'ln(1.0 / 9)', 'p50': '0.0', 'p90': 'ln(9.0)'} %}
-- Above a billion USD nobody plans by the cent.
{% set least_usd = -999999999 %}

with starts as (
    select
        place.account,
        place.series,
        place.close_date,
        -- Wider than in the tables: a debt minus a billion would overflow and fail the build for every account.
        cast(place.balance_at_close_usd as decimal(28, 9)) as balance_at_close_usd,
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
        close_date,
        balance_at_close_usd,
        day_ahead,
        {{ spend_median('day_ahead') }} as median,
        {{ spend_log_scale('day_ahead') }} as log_scale
    from starts
    cross join range(1, {{ var('forecast_horizon_days') + 1 }}) as horizon (day_ahead)
),

-- A level that fades, or an interval that narrows, must not take back what was spent.
spends as (
    select
        account,
        series,
        close_date,
        balance_at_close_usd,
        day_ahead
        {%- for quantile, logit in quantiles.items() %},
        coalesce(max(median * exp({{ logit }} * log_scale)) over so_far, 0) as {{ quantile }},
        {{ usd(quantile) }} as spend_{{ quantile }}
        {%- endfor %}
    from days
    window so_far as (partition by series order by day_ahead rows unbounded preceding)
)

select
    account,
    close_date + cast(day_ahead as integer) as forecast_date,
    spend_p10,
    spend_p50,
    spend_p90,
    -- The P90 of spend gives the P10 of the balance.
    cast(greatest(balance_at_close_usd - spend_p90, {{ least_usd }}) as decimal(18, 9)) as balance_p10,
    cast(greatest(balance_at_close_usd - spend_p50, {{ least_usd }}) as decimal(18, 9)) as balance_p50,
    cast(greatest(balance_at_close_usd - spend_p10, {{ least_usd }}) as decimal(18, 9)) as balance_p90
from spends
-- In the order of the accounts.
order by series, forecast_date
