-- One row per account and month: how far counter and bill have drifted apart, summed over spend_reconciliation.
-- Guarantee: every stretch counts once, in full, in the month of its last day.

select
    account,
    cast(date_trunc('month', last_date) as date) as month,
    cast(sum(days) as bigint) as days,
    try_cast(sum(observed_usd) as decimal(18, 9)) as observed_usd,
    try_cast(sum(billed_usd) as decimal(18, 9)) as billed_usd,
    try_cast(sum(residual_usd) as decimal(18, 9)) as residual_usd,
    count(*) filter (where not is_within_tolerance) as outside_tolerance
from {{ ref('spend_reconciliation') }}
group by account, cast(date_trunc('month', last_date) as date)
order by account, month
