-- Keys of an account that may reach their limit: with a chance of 1 in 10 or more before it begins anew or, where it never
-- does, within 30 days. The most likely first, 12 at most.

select name, workspace, limit_usd, limit_reset, remaining_usd, resets_at, probability_before_reset, limit_reached_p50
from marts.key_limits
where account = $account
    and not is_disabled
    and (
        remaining_usd <= 0
        or probability_before_reset >= 0.1
        or limit_reached_p50 <= (select cast(as_of as date) + 30 from marts.credits_runway where account = $account)
    )
order by remaining_usd > 0, probability_before_reset desc nulls last, limit_reached_p50, name, key_hash
limit 12
