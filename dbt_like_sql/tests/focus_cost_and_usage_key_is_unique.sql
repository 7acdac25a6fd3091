-- The primary key holds: BillingAccountId, ChargePeriodStart, x_kind, x_model, x_event_at.
select BillingAccountId, ChargePeriodStart, x_kind, x_model, x_event_at, count(*) as rows_found
from {{ ref('focus_cost_and_usage') }}
group by BillingAccountId, ChargePeriodStart, x_kind, x_model, x_event_at
having count(*) > 1
