-- The primary key holds, and no part of it is null: account, spend_date, model.
select account, spend_date, model, count(*) as rows_found
from {{ ref('daily_spend_by_model') }}
group by account, spend_date, model
having count(*) > 1 or account is null or spend_date is null or model is null
