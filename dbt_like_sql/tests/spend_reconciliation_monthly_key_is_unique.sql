-- The primary key holds, and no part of it is null: account, month.
select account, month, count(*) as rows_found
from {{ ref('spend_reconciliation_monthly') }}
group by account, month
having count(*) > 1 or account is null or month is null
