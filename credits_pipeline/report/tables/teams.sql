-- What each team of an account is charged for its newest month and the one before; nothing where there are no teams.

with months as (
    select *, (select max(month) from marts.monthly_chargeback where account = $account) as newest
    from marts.monthly_chargeback
    where account = $account
)

select
    team,
    cost_center,
    newest as month,
    sum(spend_usd) filter (where month = newest) as spend_usd,
    sum(share) filter (where month = newest) as share,
    sum(spend_usd) filter (where month = newest - interval 1 month) as before_usd,
    bool_and(is_final) filter (where month = newest - interval 1 month) as is_final
from months
where month >= newest - interval 1 month and exists (from months where team <> '(no team)')
group by team, cost_center, newest
order by team = '(no team)', spend_usd desc nulls last, team, cost_center
