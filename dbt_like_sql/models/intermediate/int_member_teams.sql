-- One row per account, dimension and member of those that the account is charged by: whose team it is, by the first line of
-- CREDITS_TEAMS that fits; null where none does.
-- A dollar is spent by a key, in a workspace and through an app at once. So that nothing is charged twice, an account is
-- charged by one dimension: that of the first line which is for it.
{% set marts = {'api_key': 'key', 'workspace': 'workspace', 'user': 'user', 'app': 'app'} %}
with members as (
    {%- for dimension, mart in marts.items() %}
    select distinct account, '{{ dimension }}' as dimension, member from {{ ref('daily_spend_by_' ~ mart) }}
    {%- if not loop.last %} union all {%- endif %}
    {%- endfor %}
),

dimensions as (
    select bills.account, arg_min(teams.dimension, teams.position) as dimension
    from (select distinct account from {{ source('raw', 'model_usage_days') }}) as bills
    inner join {{ source('raw', 'teams') }} as teams on {{ is_like('bills.account', 'teams.account') }}
    group by bills.account
)

select
    members.account,
    members.dimension,
    members.member,
    arg_min(teams.team, teams.position) as team,
    arg_min_null(teams.cost_center, teams.position) as cost_center
from members
semi join dimensions using (account, dimension)
left join {{ source('raw', 'teams') }} as teams
    on members.dimension = teams.dimension
    and {{ is_like('members.account', 'teams.account') }}
    and {{ is_like('members.member', 'teams.pattern') }}
group by members.account, members.dimension, members.member
order by account, dimension, member
