-- What was billed on each UTC day from $first to $last (USD), and how many rows of models there are, by all accounts: also
-- those that have no key any more.
select
    usage_date::varchar as day,
    sum(credits_usd)::double as usd,
    (select count(*) from raw.model_usage as models where models.usage_date = days.usage_date) as models
from raw.model_usage_days as days
where usage_date between $first and $last
group by usage_date
