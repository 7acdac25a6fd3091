-- One row per account and fetched UTC day, and whether its bill covers the whole day.
-- Guarantee: `is_whole_day` is true exactly where the day was fetched at or after the midnight that ends it.

select
    account,
    usage_date,
    credits_usd,
    fetched_at,
    fetched_at >= usage_date + interval 1 day as is_whole_day
from {{ source('raw', 'model_usage_days') }}
