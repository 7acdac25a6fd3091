-- The primary key holds: account, month.
select account, month, count(*) as rows_found
from {{ ref('spend_reconciliation_monthly') }}
group by account, month
having count(*) > 1
