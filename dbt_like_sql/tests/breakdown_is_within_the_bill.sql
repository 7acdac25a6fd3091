-- Of a day that was over when it was asked for, keys (workspaces, users, apps) were billed no more than the account was.
-- A warning: the sums still equal the bill, by an (unattributed) part below zero, and a day that moves is fetched again.
-- A millionth of a dollar is left to the rounding of the API's own numbers.
{{ config(severity='warn') }}

select
    parts.account,
    parts.usage_date,
    parts.dimension,
    parts.credits_usd as members_usd,
    bills.credits_usd as billed_usd
from {{ source('raw', 'usage_breakdown_days') }} as parts
inner join {{ ref('stg_model_usage_days') }} as bills
    on parts.account = bills.account and parts.usage_date = bills.usage_date
where bills.is_whole_day and parts.fetched_at >= parts.usage_date + interval 1 day
    and parts.credits_usd > bills.credits_usd + 0.000001
order by parts.usage_date desc, parts.account, parts.dimension
