-- One row per account that was ever read: what the running UTC month will have cost, beside last month and the budget.
-- The month is that of the first day that is forecast. What is spent from the close at which the forecast begins until
-- the month's end is that of balance_forecast.
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
    select places.*, days.spend_date, days.spend_usd, days.is_complete
    from places
    inner join days
        on places.account = days.account
        and days.spend_date >= places.month - interval 1 month
),

sums as (
    select
        account,
        coalesce(sum(spend_usd) filter (where spend_date >= month), 0) as spent_usd,
        coalesce(sum(spend_usd) filter (where spend_date between month and close_date), 0) as spent_at_close_usd,
        any_value(close_date) - any_value(month) + 1
        - count(*) filter (where is_complete and spend_date between month and close_date) as unknown_days,
        sum(spend_usd) filter (where spend_date < month) as last_month_usd,
        day(any_value(month) - 1)
        - count(*) filter (where is_complete and spend_date < month) as last_month_unknown_days
    from recent_days
    group by account
),

months as (
    select places.*, sums.* exclude (account)
    from places
    inner join sums using (account)
),

forecasts as (
    select
        months.account,
        fan.spend_p10 + spent_at_close_usd as month_p10,
        fan.spend_p50 + spent_at_close_usd as month_p50,
        fan.spend_p90 + spent_at_close_usd as month_p90
    from months
    inner join {{ ref('int_spend_forecast') }} as forecast
        on months.series = forecast.series
        and months.last_complete_date = forecast.origin_date
        and forecast.is_dated
    inner join {{ ref('balance_forecast') }} as fan
        on months.account = fan.account
        and months.last_date = fan.forecast_date
),

-- What is left of the budget is used up as a balance is.
budget_days as (
    select
        months.account,
        cast(months.budget_usd - months.spent_at_close_usd as double) as budget_left,
        {{ spend_median('day_ahead', 'forecast.') }} as median,
        {{ spend_log_scale('day_ahead', forecast='forecast.') }} as log_scale
    from months
    inner join {{ ref('int_spend_forecast') }} as forecast
        on months.series = forecast.series
        and months.last_complete_date = forecast.origin_date
        and forecast.is_dated
    cross join range(1, 32) as horizon (day_ahead)
    where months.budget_usd > months.spent_usd and day_ahead <= months.last_date - months.close_date
),

budget_probabilities as (
    select account, max({{ probability_spent('budget_left', 'median', 'log_scale') }}) as probability
    from budget_days
    group by account
),

totals as (
    select
        account,
        spend_date as total_date,
        budget_usd,
        sum(spend_usd) over (partition by account order by spend_date rows unbounded preceding) as total_usd
    from recent_days
    where spend_date >= month and budget_usd is not null
    union all
    select months.account, fan.forecast_date, months.budget_usd, fan.spend_p50 + months.spent_at_close_usd
    from months
    inner join forecasts using (account)
    inner join {{ ref('balance_forecast') }} as fan
        on months.account = fan.account
        and fan.forecast_date <= months.last_date
    where months.budget_usd is not null
),

budget_dates as (
    select account, min(total_date) as budget_reached_p50
    from totals
    where total_usd >= budget_usd
    group by account
)

select
    account,
    months.month,
    months.as_of,
    {{ usd('months.spent_usd') }} as spent_usd,
    cast(months.unknown_days as bigint) as unknown_days
    {%- for quantile in ['p10', 'p50', 'p90'] %},
    {{ usd('if(forecasts.month_%s < months.spent_usd, months.spent_usd, forecasts.month_%s)' % (quantile, quantile)) }}
        as month_{{ quantile }}_usd
    {%- endfor %},
    {{ usd('months.last_month_usd') }} as last_month_usd,
    cast(months.last_month_unknown_days as bigint) as last_month_unknown_days,
    months.budget_usd,
    case
        when months.spent_usd >= months.budget_usd then 1
        else budget_probabilities.probability
    end as probability_over_budget,
    budget_dates.budget_reached_p50
from months
left join forecasts using (account)
left join budget_probabilities using (account)
left join budget_dates using (account)
order by account
