-- The primary key holds: account, first_date.
select account, first_date, count(*) as rows_found
from {{ ref('spend_reconciliation') }}
group by account, first_date
having count(*) > 1
