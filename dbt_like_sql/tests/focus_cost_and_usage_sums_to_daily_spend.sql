-- EffectiveCost over a month is the spend of that month, to the last digit.
with charged as (
    select BillingAccountId as account, BillingPeriodStart as month, sum(EffectiveCost) as effective_usd
    from {{ ref('focus_cost_and_usage') }}
    group by BillingAccountId, BillingPeriodStart
),

spent as (
    select account, cast(date_trunc('month', spend_date) as timestamp) as month, sum(spend_usd) as spend_usd
    from {{ ref('daily_spend') }}
    group by account, cast(date_trunc('month', spend_date) as timestamp)
)

select spent.account, spent.month, spent.spend_usd, charged.effective_usd
from spent
full join charged on spent.account = charged.account and spent.month = charged.month
where coalesce(spent.spend_usd, 0) <> coalesce(charged.effective_usd, 0)
