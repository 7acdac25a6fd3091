-- One row per account, UTC day and model that was billed: what the money was spent on.
-- Guarantee: every row of the bill is here; over a day `spend_usd` sums to `billed_usd` of daily_spend, which differs from
-- its `spend_usd` by the residual where the day was observed.

select
    account,
    usage_date as spend_date,
    model,
    credits_usd as spend_usd,
    byok_usd,
    cast(requests as bigint) as requests,
    cast(prompt_tokens as bigint) as prompt_tokens,
    cast(completion_tokens as bigint) as completion_tokens,
    cast(credits_usd as double)
    / nullif(cast(sum(credits_usd) over (partition by account, usage_date) as double), 0) as share_of_day
from {{ source('raw', 'model_usage') }}
order by account, spend_date, model
