-- The primary key holds, and no part of it is null: account, forecast_date.
select account, forecast_date, count(*) as rows_found
from {{ ref('balance_forecast') }}
group by account, forecast_date
having count(*) > 1 or account is null or forecast_date is null
