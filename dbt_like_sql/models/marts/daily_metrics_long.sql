-- One row per account, UTC day and metric: the daily money figures in long form, for charts with a series per metric.
-- Guarantee: the values are those of daily_spend and daily_balance; a figure that is null there has no row here.

select account, spend_date as metric_date, 'spend' as metric, spend_usd as value_usd
from {{ ref('daily_spend') }}
where spend_usd is not null

union all

select account, spend_date, 'observed', observed_usd
from {{ ref('daily_spend') }}
where observed_usd is not null

union all

select account, spend_date, 'billed', billed_usd
from {{ ref('daily_spend') }}
where billed_usd is not null

union all

select account, balance_date, 'balance', balance_usd
from {{ ref('daily_balance') }}
where balance_usd is not null

order by account, metric_date, metric
