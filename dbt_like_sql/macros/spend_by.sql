{# What each member of a dimension spent: one row per account, UTC day, member and model.
   Guarantee: over any account, day and model `spend_usd`, `byok_usd` and the counts sum to those of daily_spend_by_model.
   What the bill has beyond its named members is `(unattributed)`: use without a name (chatroom, organization keys), use
   that no row of the breakdown has, and whole days whose breakdown was not fetched. It is below zero where the breakdown
   has more than the bill, as on a running day that was asked for a moment later. Empty where the dimension was never
   asked for. #}
{% macro spend_by(dimension) -%}
with days as (
    select account, usage_date, credits_usd
    from {{ source('raw', 'model_usage_days') }}
    where exists (from {{ source('raw', 'usage_breakdown_days') }} where dimension = '{{ dimension }}')
),

named as (
    select account, usage_date, member, model, credits_usd, byok_usd, requests, prompt_tokens, completion_tokens
    from {{ source('raw', 'usage_breakdown') }}
    semi join days using (account, usage_date)
    where dimension = '{{ dimension }}' and member not in ('', '(unattributed)')
),

bill_less_named as (
    select account, usage_date, model, credits_usd, byok_usd, requests, prompt_tokens, completion_tokens
    from {{ source('raw', 'model_usage') }}
    semi join days using (account, usage_date)
    union all
    select account, usage_date, model, -credits_usd, -byok_usd, -requests, -prompt_tokens, -completion_tokens
    from named
),

unattributed as (
    select
        account,
        usage_date,
        '(unattributed)' as member,
        model,
        cast(sum(credits_usd) as decimal(18, 9)) as credits_usd,
        cast(sum(byok_usd) as decimal(18, 9)) as byok_usd,
        cast(sum(requests) as bigint) as requests,
        cast(sum(prompt_tokens) as bigint) as prompt_tokens,
        cast(sum(completion_tokens) as bigint) as completion_tokens
    from bill_less_named
    group by account, usage_date, model
),

members as (
    from named
    union all
    from unattributed
    where (credits_usd, byok_usd, requests, prompt_tokens, completion_tokens) <> (0, 0, 0, 0, 0)
)

select
    members.account,
    members.usage_date as spend_date,
    members.member,
    members.model,
    members.credits_usd as spend_usd,
    members.byok_usd,
    members.requests,
    members.prompt_tokens,
    members.completion_tokens,
    cast(members.credits_usd as double) / nullif(cast(days.credits_usd as double), 0) as share_of_day
from members
inner join days using (account, usage_date)
order by account, spend_date, member, model
{%- endmacro %}
