-- The primary key holds, and no part of it is null: account, as_of_date.
select account, as_of_date, count(*) as rows_found
from {{ ref('runway_history') }}
group by account, as_of_date
having count(*) > 1 or account is null or as_of_date is null
