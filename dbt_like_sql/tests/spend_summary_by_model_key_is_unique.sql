-- The primary key holds, and no part of it is null: account, place.
select account, place, count(*) as rows_found
from {{ ref('spend_summary_by_model') }}
group by account, place
having count(*) > 1 or account is null or place is null
