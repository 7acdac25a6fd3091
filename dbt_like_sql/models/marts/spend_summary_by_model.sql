-- One row per account and place: what the 30 days of spend_summary were spent on, the dearest model first; all models
-- after the twelfth share one row.
-- Guarantee: over an account `spend_usd` sums to what was billed on these days. That is `spend_30d_usd` of spend_summary
-- only where every day was billed and none observed.

with models as (
    select
        billed.account,
        billed.model,
        sum(billed.spend_usd) as spend_usd,
        sum(billed.requests) as requests,
        sum(billed.prompt_tokens) as prompt_tokens,
        sum(billed.completion_tokens) as completion_tokens
    from {{ ref('spend_summary') }} as summary
    inner join {{ ref('daily_spend_by_model') }} as billed
        on summary.account = billed.account
        and billed.spend_date between summary.close_date - 29 and summary.close_date
    group by billed.account, billed.model
),

places as (
    select
        *,
        least(
            row_number() over (partition by account order by spend_usd desc, model), {{ var('summary_models') + 1 }}
        ) as place,
        sum(spend_usd) over (partition by account) as total_usd
    from models
)

select
    account,
    place,
    if(count(*) = 1, min(model), null) as model,
    count(*) as models,
    -- Null beyond their types: one account's absurd figures must not stop those of the others.
    try_cast(sum(spend_usd) as decimal(18, 9)) as spend_usd,
    case when total_usd > 0 then cast(sum(spend_usd) as double) / cast(total_usd as double) end as share,
    try_cast(sum(requests) as bigint) as requests,
    try_cast(sum(prompt_tokens) as bigint) as prompt_tokens,
    try_cast(sum(completion_tokens) as bigint) as completion_tokens
from places
group by account, place, total_usd
order by account, place
