-- Over an account's day the members of a dimension sum to the bill, to the last digit.
{% set marts = ['key', 'workspace', 'user', 'app'] %}
with members as (
    {%- for mart in marts %}
    select '{{ mart }}' as mart, account, spend_date, sum(spend_usd) as spend_usd
    from {{ ref('daily_spend_by_' ~ mart) }}
    group by account, spend_date
    {%- if not loop.last %} union all {%- endif %}
    {%- endfor %}
)

select members.mart, members.account, members.spend_date, members.spend_usd, bills.credits_usd
from members
left join {{ source('raw', 'model_usage_days') }} as bills
    on members.account = bills.account and members.spend_date = bills.usage_date
where members.spend_usd is distinct from bills.credits_usd
