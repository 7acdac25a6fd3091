-- The last 12 top-ups and corrections of an account, newest first, and how many more there are.

select
    event_at_earliest,
    event_at_latest,
    case kind
        when 'top_up' then 'top-up'
        when 'credit_decrease' then 'refund, transfer or expiry'
        else 'usage corrected downwards'
    end as what,
    if(kind = 'usage_correction', -amount_usd, amount_usd) as effect_usd,
    greatest(count(*) over () - 12, 0) as not_shown
from marts.credit_events
where account = $account
order by event_at_latest desc
limit 12
