-- The primary key holds: account, metric_date, metric.
select account, metric_date, metric, count(*) as rows_found
from {{ ref('daily_metrics_long') }}
group by account, metric_date, metric
having count(*) > 1
