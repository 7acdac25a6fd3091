-- The primary key holds, and no part of it is null: account, horizon_days.
select account, horizon_days, count(*) as rows_found
from {{ ref('forecast_accuracy') }}
group by account, horizon_days
having count(*) > 1 or account is null or horizon_days is null
