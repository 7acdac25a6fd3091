-- The primary key holds: account, balance_date.
select account, balance_date, count(*) as rows_found
from {{ ref('daily_balance') }}
group by account, balance_date
having count(*) > 1
