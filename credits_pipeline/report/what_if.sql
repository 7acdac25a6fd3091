-- One row per account that used $model in its last 30 days: what spend and run-out would be if $share of its tokens went
-- to $other. Prices are what was billed per million tokens (prompt and completion) in the 30 days up to the last use.
-- The forecast is scaled as a whole: a day on which the scaled fan reaches the balance is the day that runway_curve would
-- give. With a share of nothing the dates are those of credits_runway.
-- $account: only this one; null: all.

with days as (
    select
        account,
        model,
        spend_date,
        close_date,
        cast(spend_usd as double) as spend,
        coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) as tokens
    from marts.daily_spend_by_model
    inner join marts.spend_summary using (account)
    where spend_date <= close_date and ($account is null or account = $account)
),

uses as (
    select *
    from days
    where tokens > 0 and model in ($model, $other)
    qualify spend_date > max(spend_date) over (partition by account, model) - 30
),

prices as (
    select account, model, 1e6 * sum(spend) / sum(tokens) as price, max(spend_date) as last_date
    from uses
    group by account, model
),

shares as (
    select account, sum(spend) filter (where model = $model) / sum(spend) as share_of_spend
    from days
    where spend_date > close_date - 30
    group by account
    having share_of_spend > 0
),

-- A share of nothing is a factor of 1. Another tokenizer makes a tenth fewer or more tokens of the same text.
factors as (
    select
        shares.account,
        price_now.price,
        price_now.last_date,
        price_then.price as other_price,
        price_then.last_date as other_last_date,
        $share * share_of_spend as moved,
        1 + moved * (price_then.price / price_now.price - 1) as same,
        1 + moved * (0.9 * price_then.price / price_now.price - 1) as fewer,
        1 + moved * (1.1 * price_then.price / price_now.price - 1) as more
    from shares
    inner join prices as price_now on shares.account = price_now.account and price_now.model = $model
    left join prices as price_then on shares.account = price_then.account and price_then.model = $other
),

dates as (
    select
        account,
        min(forecast_date) filter (where same * spend_p90 >= balance_p10 + spend_p90) as run_out_p10,
        min(forecast_date) filter (where same * spend_p50 >= balance_p50 + spend_p50) as run_out_p50,
        min(forecast_date) filter (where same * spend_p10 >= balance_p90 + spend_p10) as run_out_p90,
        min(forecast_date) filter (where fewer * spend_p50 >= balance_p50 + spend_p50) as run_out_p50_fewer,
        min(forecast_date) filter (where more * spend_p50 >= balance_p50 + spend_p50) as run_out_p50_more
    from marts.balance_forecast
    inner join factors using (account)
    group by account
)

select
    account,
    runway.as_of,
    runway.status,
    runway.explanation,
    factors.price,
    factors.last_date,
    factors.other_price,
    factors.other_last_date,
    runway.expected_daily_spend_usd as daily,
    runway.expected_daily_spend_usd * factors.same as new_daily,
    runway.expected_daily_spend_usd * factors.fewer as new_daily_fewer,
    runway.expected_daily_spend_usd * factors.more as new_daily_more,
    {'run_out_p10': runway.run_out_p10, 'run_out_p50': runway.run_out_p50, 'run_out_p90': runway.run_out_p90} as now,
    {'run_out_p10': dates.run_out_p10, 'run_out_p50': dates.run_out_p50, 'run_out_p90': dates.run_out_p90} as then,
    dates.run_out_p50_fewer,
    dates.run_out_p50_more
from factors
inner join marts.credits_runway as runway using (account)
left join dates using (account)
order by account
