-- The primary key holds: account, observed_at.
select account, observed_at, count(*) as rows_found
from {{ ref('credits_readings') }}
group by account, observed_at
having count(*) > 1
