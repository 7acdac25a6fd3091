-- spend_usd is the figure of its method, and a day counts as complete only with a figure.
select account, spend_date, method, spend_usd, observed_usd, billed_usd, is_complete
from {{ ref('daily_spend') }}
where
    spend_usd is distinct from case method when 'billed' then billed_usd else observed_usd end
    or (is_complete and spend_usd is null)
