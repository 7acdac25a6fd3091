-- Who spent most in the 30 days of an account's summary: the first twelve, and all others together.

select
    dimension,
    least(place, 13) as place,
    if(count(*) = 1, min(member), null) as member,
    count(*) as members,
    sum(spend_1d_usd) as spend_1d_usd,
    sum(spend_7d_usd) as spend_7d_usd,
    if(count(*) = count(before_7d_usd), sum(before_7d_usd), null) as before_7d_usd,
    sum(spend_30d_usd) as spend_30d_usd,
    if(count(*) = count(before_30d_usd), sum(before_30d_usd), null) as before_30d_usd,
    sum(share) as share
from marts.spend_summary_by_member
where account = $account and dimension_rank = 1
group by dimension, least(place, 13)
order by least(place, 13)
