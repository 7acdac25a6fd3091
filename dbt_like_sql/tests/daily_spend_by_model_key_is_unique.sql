-- The primary key holds: account, spend_date, model.
select account, spend_date, model, count(*) as rows_found
from {{ ref('daily_spend_by_model') }}
group by account, spend_date, model
having count(*) > 1
