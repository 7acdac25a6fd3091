-- The primary key holds, and no part of it is null: account, spend_date.
select account, spend_date, count(*) as rows_found
from {{ ref('daily_spend') }}
group by account, spend_date
having count(*) > 1 or account is null or spend_date is null
