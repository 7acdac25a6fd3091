-- Purchases of an account of which something will be left when it may expire, the first to expire first.

select bought_earliest, bought_latest, remaining_usd, expires_on, at_risk_usd
from marts.credit_lots
where account = $account and at_risk_usd > 0
order by expires_on
limit 12
