-- The primary key holds, and no part of it is null: account, day_ahead.
select account, day_ahead, count(*) as rows_found
from {{ ref('runway_curve') }}
group by account, day_ahead
having count(*) > 1 or account is null or day_ahead is null
