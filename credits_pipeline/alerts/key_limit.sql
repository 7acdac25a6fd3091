-- One row per key that will more likely than not reach its limit before it begins anew, and per such window; where it never
-- does, within a week, and per limit. Who disabled a key, or left it alone for a month, knows.

select
    account,
    account || '/' || key_hash || '/' || coalesce(cast(cast(resets_at as date) as varchar), 'never/' || limit_usd) as key,
    name,
    limit_usd,
    used_usd,
    remaining_usd,
    resets_at,
    keys.expected_daily_spend_usd,
    probability_before_reset,
    limit_reached_p50
from marts.key_limits as keys
inner join marts.credits_runway using (account)
where not is_disabled
    and (
        probability_before_reset >= 0.5
        or (resets_at is null and limit_reached_p50 <= cast(as_of as date) + 7 and unused_days < 30)
    )
order by account, probability_before_reset desc, limit_reached_p50, name
