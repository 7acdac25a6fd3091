-- The primary key holds: account, as_of_date.
select account, as_of_date, count(*) as rows_found
from {{ ref('runway_history') }}
group by account, as_of_date
having count(*) > 1
