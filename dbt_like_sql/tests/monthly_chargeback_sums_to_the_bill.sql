-- Over an account's month the teams are charged what was billed, to the last digit.
with charged as (
    select account, month, sum(spend_usd) as spend_usd
    from {{ ref('monthly_chargeback') }}
    group by account, month
),

billed as (
    select account, cast(date_trunc('month', usage_date) as date) as month, sum(credits_usd) as spend_usd
    from {{ ref('stg_model_usage_days') }}
    group by account, month
)

select account, month, charged.spend_usd as charged_usd, billed.spend_usd as billed_usd
from charged
full join billed using (account, month)
where coalesce(charged.spend_usd, 0) <> coalesce(billed.spend_usd, 0)
