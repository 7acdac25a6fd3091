-- Why $old and $new cannot be one account, in words; no row where they can.

with readings as (
    select *, lag(account) over by_time as account_before, lag(total_usage) over by_time as usage_before
    from raw.credits_snapshots
    where account in ($old, $new)
    window by_time as (order by observed_at, total_usage)
)

select
    format('usage falls from {:.2f} to {:.2f} on {}', usage_before::double, total_usage::double, snapshot_date)
        as conflict
from readings
-- Figures can be a minute old, and corrections happen.
where account <> account_before and total_usage < usage_before * 0.99

union all

select format('{:.2f} and {:.2f} USD were billed on {}', o.credits_usd::double, n.credits_usd::double, usage_date)
from raw.model_usage_days as o inner join raw.model_usage_days as n using (usage_date)
where o.account = $old and n.account = $new and o.credits_usd <> n.credits_usd
    and least(o.fetched_at, n.fetched_at) >= usage_date + interval 3 day

limit 1
