-- One row per account: what its last day, 7 days and 30 days cost, each beside the period of that length before it.
-- Guarantee: periods end with `close_date`, the day at whose close the forecast begins, and are sums of `spend_usd` of
-- daily_spend over their complete days; `unknown_days_…` counts the others. A sum is null where no day is known.

{% set periods = [1, 7, 30] %}

with closes as (
    select account, close_date
    from {{ ref('int_runway_position') }}

    union all

    -- Accounts that were never read are known from their bills.
    select account, max(spend_date)
    from {{ ref('daily_spend') }}
    where account not in (select account from {{ ref('int_runway_position') }})
    group by account
),

ages as (
    select
        closes.account,
        closes.close_date,
        closes.close_date - spend.spend_date as age_days,
        spend.spend_usd
    from closes
    left join {{ ref('daily_spend') }} as spend
        on closes.account = spend.account
        and spend.is_complete
        and spend.spend_date between closes.close_date - {{ 2 * periods[-1] - 1 }} and closes.close_date
)

select
    account,
    close_date
    {%- for days in periods %}
    {%- for name, first, end in [('', 0, days), ('before_', days, 2 * days)] %},
    -- Null beyond DECIMAL(18,9): one account's absurd figures must not stop those of the others.
    try_cast(
        sum(spend_usd) filter (where age_days >= {{ first }} and age_days < {{ end }}) as decimal(18, 9)
    ) as {{ name or 'spend_' }}{{ days }}d_usd,
    {{ days }} - count(spend_usd) filter (where age_days >= {{ first }} and age_days < {{ end }})
        as unknown_days_{{ name }}{{ days }}d
    {%- endfor %}
    {%- endfor %}
from ages
group by account, close_date
order by account
