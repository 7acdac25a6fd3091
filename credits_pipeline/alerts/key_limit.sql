-- One row per key that will more likely than not reach its limit before it begins anew, and per such window.

select
    account,
    account || '/' || key_hash || '/' || cast(resets_at as date) as key,
    name,
    limit_usd,
    used_usd,
    remaining_usd,
    resets_at,
    expected_daily_spend_usd,
    probability_before_reset,
    limit_reached_p50
from marts.key_limits
where probability_before_reset >= 0.5
order by account, probability_before_reset desc, name
