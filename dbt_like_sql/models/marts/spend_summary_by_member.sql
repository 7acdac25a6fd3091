-- One row per account, dimension and member: what each key, workspace, user or app was billed in the periods of
-- spend_summary, the dearest of the 30 days first.
-- Guarantee: over an account and dimension each sum is what was billed on the days of its period. A period before is null
-- unless all of its days were fetched, so no change is seen that is only a gap. A dimension that was not fetched for any of
-- the 7 days is not here: it is not asked for any more.

{% set marts = {'api_key': 'key', 'workspace': 'workspace', 'user': 'user', 'app': 'app'} %}
{% set periods = [1, 7, 30] %}

with fetched as (
    select
        summary.account,
        summary.close_date,
        days.dimension,
        list_position({{ marts | list }}, days.dimension) as dimension_position
        {%- for days in periods %},
        count(*) filter (
            where summary.close_date - days.usage_date between {{ days }} and {{ 2 * days - 1 }}
        ) = {{ days }} as is_known_before_{{ days }}d
        {%- endfor %}
    from {{ ref('spend_summary') }} as summary
    inner join {{ source('raw', 'usage_breakdown_days') }} as days
        on summary.account = days.account
        and days.usage_date between summary.close_date - {{ 2 * periods[-1] - 1 }} and summary.close_date
    group by summary.account, summary.close_date, days.dimension
    having max(days.usage_date) > summary.close_date - 7
),

members as (
    {%- for dimension, mart in marts.items() %}
    {{ 'union all' if not loop.first }}
    select '{{ dimension }}' as dimension, account, spend_date, member, spend_usd
    from {{ ref('daily_spend_by_' ~ mart) }}
    {%- endfor %}
),

ages as (
    select fetched.*, members.member, members.spend_usd, fetched.close_date - members.spend_date as age_days
    from fetched
    inner join members
        on fetched.account = members.account
        and fetched.dimension = members.dimension
        and members.spend_date between fetched.close_date - {{ 2 * periods[-1] - 1 }} and fetched.close_date
),

sums as (
    select
        account,
        dimension,
        dimension_position,
        member
        {%- for days in periods %},
        coalesce(sum(spend_usd) filter (where age_days < {{ days }}), 0) as spend_{{ days }}d,
        if(
            any_value(is_known_before_{{ days }}d),
            coalesce(sum(spend_usd) filter (where age_days between {{ days }} and {{ 2 * days - 1 }}), 0),
            null
        ) as before_{{ days }}d
        {%- endfor %}
    from ages
    group by account, dimension, dimension_position, member
)

select
    account,
    dimension,
    cast(dense_rank() over (partition by account order by dimension_position) as bigint) as dimension_rank,
    row_number() over (partition by account, dimension order by spend_30d desc, member) as place,
    member
    {%- for days in periods %},
    -- Null beyond their type: one account's absurd figures must not stop those of the others.
    try_cast(spend_{{ days }}d as decimal(18, 9)) as spend_{{ days }}d_usd,
    try_cast(before_{{ days }}d as decimal(18, 9)) as before_{{ days }}d_usd
    {%- endfor %},
    cast(spend_30d as double)
    / nullif(cast(sum(spend_30d) over (partition by account, dimension) as double), 0) as share
from sums
order by account, dimension_rank, place
