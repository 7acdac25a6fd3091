-- Keys of an account that somebody should look at: without a limit, unused for 30 days, or about to expire. 12 at most,
-- those with the most reasons first, and how many more there are.

select name, workspace, has_no_limit, if(unused_days >= 30, unused_days, null) as unused_days, expiry.expires_on,
    greatest(count(*) over () - 12, 0) as not_shown
from marts.key_limits as keys
left join (
    select account, key_hash, expires_on
    from marts.key_limits
    inner join marts.credits_runway using (account)
    where expires_on <= cast(as_of as date) + 14
) as expiry using (account, key_hash)
where account = $account
    and not is_disabled
    and (has_no_limit or unused_days >= 30 or expiry.expires_on is not null)
order by has_no_limit and unused_days >= 30 desc, expiry.expires_on, unused_days desc nulls last, name, key_hash
limit 12
