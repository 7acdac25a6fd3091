-- One row per charge, in the columns of FOCUS 1.2 (FinOps Open Cost and Usage Specification): top-ups and other changes
-- of credits, and usage per account, UTC day, API key and model; without a breakdown by key, per account, day and model.
-- Guarantee: over any day, and so over any month, EffectiveCost sums to spend_usd of daily_spend, and BilledCost to the
-- changes of credits in credit_events. Credits are paid in advance: a purchase costs cash and is not usage yet, and usage
-- costs no further cash, so nothing is counted twice.
-- Where bill and counter differ on a day, the bill's models keep their figures and one more row carries the remainder:
-- usage of an unknown model, below zero where the counter shows less. FOCUS counts refunds under the category of what they
-- take back, so that remainders of neighbouring days, and a purchase and its refund, cancel out within one category.
-- The sub account is the API key, by the name that it had: no analytics gives its id.
-- ChargeClass and InvoiceId are null: usage of prepaid credits is on no invoice, and no API says which invoice a purchase
-- is on (ChargeClass `Correction` is for charges of an earlier invoice).

with days as (
    select account, spend_date, spend_usd, method, is_complete
    from {{ ref('daily_spend') }}
    where spend_usd is not null
),

-- Where no key was ever asked for, daily_spend_by_key is empty; else it has every bill, in rows without a key where a day
-- was not broken down.
bills as (
    select
        account, spend_date, nullif(member, '(unattributed)') as api_key,
        model, spend_usd, requests, prompt_tokens, completion_tokens
    from {{ ref('daily_spend_by_key') }}
    union all
    select account, spend_date, null, model, spend_usd, requests, prompt_tokens, completion_tokens
    from {{ ref('daily_spend_by_model') }}
    where not exists (from {{ ref('daily_spend_by_key') }})
),

models as (
    select
        days.account,
        days.spend_date,
        bills.api_key,
        teams.team,
        teams.cost_center,
        bills.model,
        bills.spend_usd,
        bills.requests,
        bills.prompt_tokens,
        bills.completion_tokens,
        days.method,
        days.is_complete
    from days
    inner join bills
        on days.account = bills.account
        and days.spend_date = bills.spend_date
    left join {{ ref('int_member_teams') }} as teams
        on bills.account = teams.account
        and coalesce(bills.api_key, '(unattributed)') = teams.member
        and teams.dimension = 'api_key'
),

remainders as (
    select account, spend_date, cast(sum(spend_usd) as decimal(18, 9)) as spend_usd, method, is_complete
    from (
        select account, spend_date, spend_usd, method, is_complete from days
        union all
        select account, spend_date, -spend_usd, method, is_complete from models
    )
    group by account, spend_date, method, is_complete
),

charges as (
    select
        account,
        spend_date as charge_date,
        'Usage' as category,
        'Usage-Based' as frequency,
        'Use of ' || model as description,
        0 as billed_usd,
        spend_usd as effective_usd,
        spend_usd as list_usd,
        prompt_tokens + completion_tokens as quantity,
        'Tokens' as unit,
        'model' as kind,
        api_key,
        model,
        team,
        cost_center,
        requests,
        prompt_tokens,
        completion_tokens,
        cast(null as timestamp) as event_at,
        method,
        is_complete
    from models

    union all

    -- No tokens are known here: what was used is credits, one per US dollar.
    select
        account,
        spend_date,
        'Usage',
        'Usage-Based',
        case
            when spend_usd > 0 then 'Use that no bill attributes to a model'
            else 'Bill above the counter: a correction, or use that the counter shows on a neighbouring day'
        end,
        0,
        spend_usd,
        spend_usd,
        spend_usd,
        'Credits',
        case when spend_usd > 0 then 'unattributed' else 'correction' end,
        null,
        null,
        null,
        null,
        null,
        null,
        null,
        null,
        method,
        is_complete
    from remainders
    where spend_usd <> 0

    union all

    select
        account,
        cast(event_at_latest as date),
        'Purchase',
        'One-Time',
        case kind
            when 'top_up' then 'Purchase of credits'
            else 'Credits taken back: refund, transfer or expiry'
        end,
        amount_usd,
        0,
        amount_usd,
        amount_usd,
        'Credits',
        kind,
        null,
        null,
        null,
        null,
        null,
        null,
        null,
        event_at_latest,
        null,
        null
    from {{ ref('credit_events') }}
    where kind in ('top_up', 'credit_decrease')
)

select
    cast(billed_usd as decimal(18, 9)) as BilledCost,
    account as BillingAccountId,
    account as BillingAccountName,
    'USD' as BillingCurrency,
    cast(date_trunc('month', charge_date) + interval 1 month as timestamp) as BillingPeriodEnd,
    cast(date_trunc('month', charge_date) as timestamp) as BillingPeriodStart,
    category as ChargeCategory,
    cast(null as varchar) as ChargeClass,
    description as ChargeDescription,
    frequency as ChargeFrequency,
    cast(charge_date + 1 as timestamp) as ChargePeriodEnd,
    cast(charge_date as timestamp) as ChargePeriodStart,
    cast(case category when 'Usage' then quantity end as decimal(38, 9)) as ConsumedQuantity,
    case category when 'Usage' then unit end as ConsumedUnit,
    list_usd as ContractedCost,
    cast(effective_usd as decimal(18, 9)) as EffectiveCost,
    'OpenRouter' as HostProviderName,
    cast(null as varchar) as InvoiceId,
    'OpenRouter' as InvoiceIssuerName,
    list_usd as ListCost,
    cast(quantity as decimal(38, 9)) as PricingQuantity,
    unit as PricingUnit,
    'OpenRouter' as ProviderName,
    'OpenRouter' as PublisherName,
    'AI and Machine Learning' as ServiceCategory,
    'OpenRouter' as ServiceName,
    'OpenRouter' as ServiceProviderName,
    'Generative AI' as ServiceSubcategory,
    api_key as SubAccountId,
    api_key as SubAccountName,
    case
        when cost_center is not null then cast(json_object('team', team, 'cost_center', cost_center) as varchar)
        when team is not null then cast(json_object('team', team) as varchar)
    end as Tags,
    kind as x_kind,
    model as x_model,
    requests as x_requests,
    prompt_tokens as x_prompt_tokens,
    completion_tokens as x_completion_tokens,
    event_at as x_event_at,
    method as x_method,
    is_complete as x_is_complete
from charges
order by BillingAccountId, ChargePeriodStart, x_kind, SubAccountId nulls first, x_model nulls first, x_event_at nulls first
