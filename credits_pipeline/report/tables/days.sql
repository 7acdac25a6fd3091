-- The last 30 UTC days of an account, newest first: spend and its source in words, the bill, the end-of-day balance.

select
    spend_date,
    spend_usd,
    billed_usd,
    balance_usd,
    is_estimated,
    is_newest and not is_complete as is_running,
    case
        when spend_usd is null then 'not known'
        when is_complete then known
        when method = 'billed' then 'billed so far'
        -- A day that is not known from its start says since when it is.
        when spend_date = cast(first_read_at as date) then 'since ' || strftime(first_read_at, '%H:%M')
        when not is_newest then known
        else 'so far' || if(method = 'interpolated', ', ' || known, '')
    end as source
from (
    select
        *,
        spend_date = max(spend_date) over () as is_newest,
        case method when 'observed' then 'measured' when 'billed' then 'as billed' else 'estimate' end as known,
        (select min(observed_at) from marts.credits_readings where account = $account) as first_read_at
    from marts.daily_spend
    where account = $account
) as spend
left join marts.daily_balance as balance on balance.account = $account and balance.balance_date = spend.spend_date
order by spend_date desc
limit 30
