-- From the first reading to the newest the sum of observed_usd is the counter's own change, to the last digit.
with observed as (
    select account, sum(observed_usd) as observed_usd
    from {{ ref('daily_spend') }}
    group by account
),

counters as (
    select
        account,
        arg_max(total_usage, observed_at) as newest_usage,
        arg_min(total_usage, observed_at) as first_usage
    from {{ ref('credits_readings') }}
    group by account
)

select
    counters.account,
    counters.newest_usage - counters.first_usage as counter_move_usd,
    observed.observed_usd
from counters
left join observed on counters.account = observed.account
where observed.observed_usd is distinct from counters.newest_usage - counters.first_usage
