-- Counter and bill agree within the larger of 1 % and $0.01, per observed day and per gap as a whole.
-- A warning, not an error: the day's figures remain right by their method, and a late bill is fetched again.
{{ config(severity='warn') }}

select account, first_date, last_date, observed_usd, billed_usd, residual_usd, shared_usd
from {{ ref('spend_reconciliation') }}
where not is_within_tolerance
order by last_date desc, account
