-- One row per account, UTC month, team and cost center: what is charged to whom.
-- Guarantee: over a month `spend_usd` sums to the account's bill, and `share` to 1. What no line of CREDITS_TEAMS is for
-- is charged to `(no team)`; without such a file that is all of it.
-- Whose team a member is: int_member_teams.
{% set marts = {'api_key': 'key', 'workspace': 'workspace', 'user': 'user', 'app': 'app'} %}
with bills as (
    select account, usage_date, date_trunc('month', usage_date) as month_start, fetched_at
    from {{ source('raw', 'model_usage_days') }}
),

members as (
    {%- for dimension, mart in marts.items() %}
    select
        '{{ dimension }}' as dimension, account, date_trunc('month', spend_date) as month_start, member,
        sum(spend_usd) as spend_usd, sum(requests) as requests
    from {{ ref('daily_spend_by_' ~ mart) }}
    group by account, month_start, member
    {%- if not loop.last %} union all {%- endif %}
    {%- endfor %}
),

charged as (
    select members.account, members.month_start, teams.team, teams.cost_center, members.spend_usd, members.requests
    from members
    inner join {{ ref('int_member_teams') }} as teams using (account, dimension, member)
    where teams.team is not null
),

charged_or_not as (
    from charged
    union all
    select account, date_trunc('month', spend_date), '(no team)', null, spend_usd, requests
    from {{ ref('daily_spend_by_model') }}
    union all
    select account, month_start, '(no team)', null, -spend_usd, -requests
    from charged
),

teams as (
    select
        account, month_start, team, cost_center,
        cast(sum(spend_usd) as decimal(18, 9)) as spend_usd,
        cast(sum(requests) as bigint) as requests
    from charged_or_not
    group by account, month_start, team, cost_center
),

months as (
    -- A day is settled when it was fetched 48 hours after its end.
    select
        bills.account,
        bills.month_start,
        count(*) = day(last_day(any_value(bills.month_start)))
        and bool_and(bills.fetched_at >= bills.usage_date + interval 3 day)
        and bool_and(
            dimensions.dimension is null or coalesce(parts.fetched_at >= bills.usage_date + interval 3 day, false)
        ) as is_final
    from bills
    left join (select distinct account, dimension from {{ ref('int_member_teams') }}) as dimensions
        on bills.account = dimensions.account
    left join {{ source('raw', 'usage_breakdown_days') }} as parts
        on bills.account = parts.account
        and bills.usage_date = parts.usage_date
        and dimensions.dimension = parts.dimension
    group by bills.account, bills.month_start
)

select
    teams.account,
    cast(teams.month_start as date) as month,
    teams.team,
    teams.cost_center,
    teams.spend_usd,
    cast(teams.spend_usd as double)
    / nullif(cast(sum(teams.spend_usd) over (partition by teams.account, teams.month_start) as double), 0) as share,
    teams.requests,
    months.is_final
from teams
inner join months on teams.account = months.account and teams.month_start = months.month_start
where teams.team <> '(no team)' or (teams.spend_usd, teams.requests) <> (0, 0)
order by account, month, team, cost_center
