-- One row per account that was ever read: what the running UTC month will have cost, beside last month and the budget.
-- The month is that of the first day that is forecast. What is spent from the close at which the forecast begins until
-- the month's end has the median of balance_forecast, and the wider interval of topup_plan.
-- Guarantee: no quantile is below `spent_usd`, which counts to the newest reading. Days of the month that are not known
-- add nothing, and `unknown_days` counts them. Quantiles are null where no dates are given.

with places as (
    select
        account,
        series,
        as_of,
        last_complete_date,
        close_date,
        cast(date_trunc('month', close_date + 1) as date) as month,
        last_day(close_date + 1) as last_date,
        plans.budget_usd
    from {{ ref('int_runway_position') }}
    left join {{ source('raw', 'account_plans') }} as plans using (account)
),

-- Days before the first with spend are in no table of spend; those that were billed nothing are known all the same.
days as (
    select account, spend_date, spend_usd, is_complete
    from {{ ref('daily_spend') }}
    union all
    select bills.account, bills.usage_date, bills.credits_usd, true
    from {{ ref('stg_model_usage_days') }} as bills
    inner join (select account, min(spend_date) as first_date from {{ ref('daily_spend') }} group by account) as spans
        on bills.account = spans.account
        and bills.usage_date < spans.first_date
    where bills.is_whole_day
),

recent_days as (
    select
        places.*,
        days.spend_date,
        days.spend_usd,
        days.is_complete,
        sum(days.spend_usd) over (
            partition by account, days.spend_date >= places.month order by days.spend_date rows unbounded preceding
        ) as total_usd
    from places
    inner join days using (account)
    where days.spend_date >= places.month - interval 1 month
),

months as (
    select
        account,
        month,
        last_date,
        close_date,
        as_of,
        series,
        last_complete_date,
        budget_usd,
        coalesce(sum(spend_usd) filter (where spend_date >= month), 0) as spent_usd,
        coalesce(sum(spend_usd) filter (where spend_date between month and close_date), 0) as spent_at_close_usd,
        close_date - month + 1 - count(*) filter (where is_complete and spend_date between month and close_date)
            as unknown_days,
        sum(spend_usd) filter (where spend_date < month) as last_month_usd,
        day(month - 1) - count(*) filter (where is_complete and spend_date < month) as last_month_unknown_days,
        min(spend_date) filter (where spend_date >= month and total_usd >= budget_usd) as budget_passed_date
    from recent_days
    group by account, month, last_date, close_date, as_of, series, last_complete_date, budget_usd
),

days_ahead as (
    select
        months.account,
        months.close_date + cast(day_ahead as integer) as forecast_date,
        months.budget_usd - months.spent_at_close_usd as budget_left,
        {{ spend_median('day_ahead', 'forecast.') }} as median,
        {{ spend_log_scale('day_ahead', forecast='forecast.') }} * {{ var('money_width') }} as log_scale
    from months
    inner join {{ ref('int_spend_forecast') }} as forecast
        on months.series = forecast.series
        and months.last_complete_date = forecast.origin_date
        and forecast.is_dated
    cross join range(1, 32) as horizon (day_ahead)
    where day_ahead <= months.last_date - months.close_date
),

-- More days never cost less. What is left of the budget is used up as a balance is.
forecasts as (
    select
        account,
        max(median * exp(-ln(9.0) * log_scale)) as spend_p10,
        max(median) as spend_p50,
        max(median * exp(ln(9.0) * log_scale)) as spend_p90,
        max({{ probability_spent('cast(nullif(greatest(budget_left, 0), 0) as double)', 'median', 'log_scale') }}) filter (where budget_left > 0)
            as probability_over_budget,
        min(forecast_date) filter (where median >= budget_left) as over_budget_date
    from days_ahead
    group by account
)

select
    account,
    months.month,
    months.as_of,
    {{ usd('months.spent_usd') }} as spent_usd,
    cast(months.unknown_days as bigint) as unknown_days
    {%- for quantile in ['p10', 'p50', 'p90'] %},
    {{ usd('if(spend_%s is null, null, greatest(spent_at_close_usd + %s, spent_usd))' % (quantile, usd('spend_' ~ quantile))) }}
        as month_{{ quantile }}_usd
    {%- endfor %},
    {{ usd('months.last_month_usd') }} as last_month_usd,
    cast(months.last_month_unknown_days as bigint) as last_month_unknown_days,
    months.budget_usd,
    if(months.budget_passed_date is null, forecasts.probability_over_budget, 1) as probability_over_budget,
    coalesce(months.budget_passed_date, forecasts.over_budget_date) as budget_reached_p50
from months
left join forecasts using (account)
order by account
