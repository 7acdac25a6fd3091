-- The primary key holds: account, day_ahead.
select account, day_ahead, count(*) as rows_found
from {{ ref('runway_curve') }}
group by account, day_ahead
having count(*) > 1
