-- The primary key holds, and no part of it is null: account, observed_at.
select account, observed_at, count(*) as rows_found
from {{ ref('credits_readings') }}
group by account, observed_at
having count(*) > 1 or account is null or observed_at is null
