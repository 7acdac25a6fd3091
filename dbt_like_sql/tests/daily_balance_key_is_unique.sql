-- The primary key holds, and no part of it is null: account, balance_date.
select account, balance_date, count(*) as rows_found
from {{ ref('daily_balance') }}
group by account, balance_date
having count(*) > 1 or account is null or balance_date is null
