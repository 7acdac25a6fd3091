-- The primary key holds: account, forecast_date.
select account, forecast_date, count(*) as rows_found
from {{ ref('balance_forecast') }}
group by account, forecast_date
having count(*) > 1
