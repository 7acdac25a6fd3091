-- The primary key holds: account, horizon_days.
select account, horizon_days, count(*) as rows_found
from {{ ref('forecast_accuracy') }}
group by account, horizon_days
having count(*) > 1
