-- One row per account and month whose budget will more likely than not be passed, or is, with the model and the key that
-- cost most in it. The end of a month is known in the days after it.

with months as (
    select account, month, spent_usd, budget_usd, month_p10_usd, month_p50_usd, month_p90_usd, probability_over_budget
    from marts.month_outlook
    union all
    select account, cast(month - interval 1 month as date), last_month_usd, budget_usd, null, null, null, null
    from marts.month_outlook
    where day(as_of) <= 3
),

standing as (
    select *, spent_usd >= budget_usd as is_passed
    from months
    where is_passed or probability_over_budget > 0.5
),

parts as (
    select 'model' as what, account, spend_date, model as name, spend_usd
    from marts.daily_spend_by_model
    union all
    select 'key', account, spend_date, member, spend_usd
    from marts.daily_spend_by_key
    where member <> '(unattributed)'
),

sums as (
    select standing.account, standing.month, parts.what, parts.name, sum(parts.spend_usd) as part_usd
    from standing
    inner join parts
        on standing.account = parts.account
        and parts.spend_date between standing.month and last_day(standing.month)
    group by standing.account, standing.month, parts.what, parts.name
),

dearest as (
    select account, month, what, first({what: what, name: name, usd: part_usd} order by part_usd desc, name) as part
    from sums
    group by account, month, what
)

select
    standing.*,
    standing.account || '/' || strftime(standing.month, '%Y-%m') || if(is_passed, '/passed', '/likely') as key,
    (
        select list(part order by what desc) from dearest
        where dearest.account = standing.account and dearest.month = standing.month
    ) as dearest
from standing
order by standing.account, standing.month
