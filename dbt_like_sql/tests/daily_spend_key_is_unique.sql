-- The primary key holds: account, spend_date.
select account, spend_date, count(*) as rows_found
from {{ ref('daily_spend') }}
group by account, spend_date
having count(*) > 1
