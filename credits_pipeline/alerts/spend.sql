-- One row per account and day that cost more than seemed possible, with what caused it. Late bills arrive within three
-- days before the newest reading; older days are old news, and a first run would report a quarter of a year of them.

select
    cause.account,
    cause.account || '/' || cause.spend_date as key,
    list(cause order by cause_rank) as causes
from marts.unusual_spend as cause
inner join marts.credits_runway as runway using (account)
where cause.spend_date >= cast(runway.as_of as date) - 3
group by all
order by cause.account, key
