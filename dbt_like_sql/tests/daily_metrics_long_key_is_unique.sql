-- The primary key holds, and no part of it is null: account, metric_date, metric.
select account, metric_date, metric, count(*) as rows_found
from {{ ref('daily_metrics_long') }}
group by account, metric_date, metric
having count(*) > 1 or account is null or metric_date is null or metric is null
