-- One row per account and UTC day, the days of daily_spend: the balance at the close of the day, the midnight that ends it.
-- Guarantee: a balance is given only where it can be proved; otherwise it is null, as it is before the first reading and
-- for the running day, which is not over. It is never clamped: debt is negative.

select
    account,
    cast(midnight_date - 1 as date) as balance_date,
    total_credits,
    total_usage,
    cast(total_credits - total_usage as decimal(18, 9)) as balance_usd,
    not is_near or total_credits is null or total_usage is null as is_estimated
from {{ ref('int_midnights') }}
-- The first midnight does not end a known day.
qualify lag(midnight_date) over (partition by account order by midnight_date) is not null
order by account, balance_date
