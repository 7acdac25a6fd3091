-- The primary key holds, and no part of it is null: account, first_date.
select account, first_date, count(*) as rows_found
from {{ ref('spend_reconciliation') }}
group by account, first_date
having count(*) > 1 or account is null or first_date is null
