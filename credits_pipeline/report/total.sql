-- What the accounts with a key ($accounts) have and spent together; a sum with an unknown part is unknown.

select
    case when count(*) = count(balance_usd) then sum(balance_usd) end as balance_usd,
    case when count(*) = count(spend_30d_usd) then sum(spend_30d_usd) end as spend_30d_usd
from (select unnest(cast($accounts as varchar[])) as account)
left join marts.credits_runway using (account)
