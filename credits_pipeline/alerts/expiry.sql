-- One row per account and day of the next 30 on which credits may expire that will probably be left then: a notice 30
-- days ahead, and one 7 days ahead.

with lots as (
    select lot.*, lot.expires_on - cast(runway.as_of as date) as days_ahead
    from marts.credit_lots as lot
    inner join marts.credits_runway as runway using (account)
)

select
    account,
    account || '/' || expires_on || '/' || if(days_ahead <= 7, 7, 30) as key,
    expires_on,
    days_ahead,
    sum(remaining_usd) as remaining_usd,
    sum(at_risk_usd) as at_risk_usd
from lots
where days_ahead between 0 and 30
group by account, expires_on, days_ahead
having sum(at_risk_usd) >= 0.01
order by account, expires_on
