-- One row per account with a dated forecast today and the night before: how many days the median date (P50) moved, and why.
-- The causes are separated by changing one thing at a time, in the order in which it happened: first what the newest
-- complete day cost, then the credits bought or taken back, then what the forecast learnt from the day.
-- Guarantee: `spend_days + credit_days + learning_days = moved_days`, exactly.

{% set steps = ['night_before', 'after_spend', 'after_credits', 'today'] %}

-- Each lookup is materialized: tables made in the same transaction have no statistics yet, and with all joins in one
-- query DuckDB (1.5.6) starts from pairs of all days of an account: 1,000 accounts then cost 5 s, not 0.1.
with places as materialized (
    select
        account,
        series,
        last_complete_date,
        last_complete_date - 1 as date_before,
        balance_at_close_usd
    from {{ ref('int_runway_position') }}
    where status = 'ok' and close_date = last_complete_date and balance_at_close_usd > 0
),

today as materialized (
    select places.account, forecast
    from places
    inner join {{ ref('int_spend_forecast') }} as forecast
        on places.series = forecast.series
        and places.last_complete_date = forecast.origin_date
),

night_before as materialized (
    select places.account, forecast
    from places
    inner join {{ ref('int_spend_forecast') }} as forecast
        on places.series = forecast.series
        and places.date_before = forecast.origin_date
    where forecast.is_dated
),

balances as materialized (
    select places.account, balance.balance_usd, balance.total_credits
    from places
    inner join {{ ref('daily_balance') }} as balance
        on places.account = balance.account
        and places.date_before = balance.balance_date
    where balance.balance_usd > 0
),

credits as materialized (
    select account, arg_max(total_credits, observed_at) as total_credits
    from {{ ref('credits_readings') }}
    group by account
),

-- What the day cost is what the balance fell by, credits aside: a balance that was estimated the night before may differ
-- from today's by more, or less, than the day's bill, and the rest was no purchase.
pairs as materialized (
    select
        places.account,
        places.last_complete_date,
        cast(places.balance_at_close_usd as double) as balance_today,
        cast(balances.balance_usd as double) as balance_before,
        cast(credits.total_credits - balances.total_credits as decimal(18, 9)) as credit_change_usd,
        cast(places.balance_at_close_usd as double) - cast(credit_change_usd as double) as balance_after_spend,
        try_cast(
            cast(balances.balance_usd as decimal(38, 9)) - places.balance_at_close_usd + credit_change_usd
            as decimal(18, 9)
        ) as spend_usd,
        today.forecast as forecast_today,
        night_before.forecast as forecast_before
    from places
    inner join today using (account)
    inner join night_before using (account)
    inner join balances using (account)
    inner join credits using (account)
),

-- The median date is the first day by whose end the days that have not passed yet cost the balance.
scenarios as (
    select
        account,
        'night_before' as step,
        last_complete_date - 1 as start_date,
        forecast_before as forecast,
        balance_before as balance,
        0 as days_passed
    from pairs

    union all

    select account, 'after_spend', last_complete_date - 1, forecast_before, greatest(balance_after_spend, 0), 1
    from pairs

    union all

    select account, 'after_credits', last_complete_date - 1, forecast_before, balance_today, 1
    from pairs

    union all

    select account, 'today', last_complete_date, forecast_today, balance_today, 0
    from pairs
),

-- Weekdays move the date by less than a week, the day that has passed by one more.
days_ahead as (
    select
        *,
        {{ days_ahead_between(
            median_day('balance', 'greatest', 'forecast.') ~ ' - 7', median_day('balance', 'least', 'forecast.') ~ ' + 15'
        ) }} as day_ahead
    from scenarios
),

dates as (
    select
        account,
        step,
        start_date,
        min(day_ahead) filter (
            where {{ spend_median('day_ahead', 'forecast.') }}
            - days_passed * forecast.factor_sums[2] * {{ spend_level('day_ahead', 'forecast.') }} >= balance
        ) as days_ahead
    from days_ahead
    group by account, step, start_date
),

steps as (
    select
        account
        {%- for step in steps %},
        max(start_date + cast(days_ahead as integer)) filter (where step = '{{ step }}') as {{ step }}
        {%- endfor %}
    from dates
    group by account
),

-- What it was spent on, and by which API key: the model and the key that differ most from their mean of the seven days
-- before, if all eight are billed, and broken down by key.
billed_days as (
    select account, spend_date, 'model' as part
    from {{ ref('daily_spend') }}
    where billed_usd is not null
    union all
    select account, usage_date, 'key'
    from {{ source('raw', 'usage_breakdown_days') }}
    where dimension = 'api_key'
),

billed_pairs as (
    select pairs.account, pairs.last_complete_date, days.part
    from pairs
    inner join billed_days as days
        on pairs.account = days.account
        and days.spend_date between pairs.last_complete_date - 7 and pairs.last_complete_date
    group by pairs.account, pairs.last_complete_date, days.part
    having count(*) = 8
),

parts as (
    select account, spend_date, 'model' as part, model as name, spend_usd
    from {{ ref('daily_spend_by_model') }}
    union all
    select account, spend_date, 'key', member, spend_usd
    from {{ ref('daily_spend_by_key') }}
    where member <> '(unattributed)'
),

changes as (
    select
        pairs.account,
        parts.part,
        parts.name,
        sum(if(parts.spend_date = pairs.last_complete_date, parts.spend_usd, cast(0 as decimal(18, 9))))
        - sum(if(parts.spend_date < pairs.last_complete_date, parts.spend_usd, cast(0 as decimal(18, 9)))) / 7
            as change_usd
    from billed_pairs as pairs
    inner join parts
        on pairs.account = parts.account
        and pairs.part = parts.part
        and parts.spend_date between pairs.last_complete_date - 7 and pairs.last_complete_date
    group by pairs.account, parts.part, parts.name
),

drivers as (
    select
        account
        {%- for part in ['model', 'key'] %},
        first(name order by change_usd desc, name) filter (where part = '{{ part }}' and change_usd > 0)
            as most_risen_{{ part }},
        first(name order by change_usd, name) filter (where part = '{{ part }}' and change_usd < 0)
            as most_fallen_{{ part }}
        {%- endfor %}
    from changes
    group by account
)

select
    pairs.account,
    cast(today - night_before as bigint) as moved_days,
    cast(after_spend - night_before as bigint) as spend_days,
    cast(after_credits - after_spend as bigint) as credit_days,
    cast(today - after_credits as bigint) as learning_days,
    pairs.spend_usd,
    {{ usd(spend_median('1', 'pairs.forecast_before.')) }} as expected_spend_usd,
    pairs.credit_change_usd,
    drivers.most_risen_model,
    drivers.most_fallen_model,
    drivers.most_risen_key,
    drivers.most_fallen_key
from pairs
inner join steps using (account)
left join drivers using (account)
where today is not null and night_before is not null and after_spend is not null and after_credits is not null
