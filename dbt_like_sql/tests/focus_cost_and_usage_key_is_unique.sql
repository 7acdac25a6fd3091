-- The primary key holds, its first three parts never null: BillingAccountId, ChargePeriodStart, x_kind, x_model, x_event_at.
select BillingAccountId, ChargePeriodStart, x_kind, x_model, x_event_at, count(*) as rows_found
from {{ ref('focus_cost_and_usage') }}
group by BillingAccountId, ChargePeriodStart, x_kind, x_model, x_event_at
having count(*) > 1 or BillingAccountId is null or ChargePeriodStart is null or x_kind is null
