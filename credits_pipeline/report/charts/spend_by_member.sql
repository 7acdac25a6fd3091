-- Who spent, per UTC day of the 30 of an account's summary: the six dearest keys (or workspaces, users, apps), all others
-- together.

with members as (
    select *
    from marts.spend_summary_by_member
    where account = $account and dimension_rank = 1 and spend_30d_usd <> 0
),

spent as (
    select 'api_key' as dimension, account, spend_date, member, spend_usd from marts.daily_spend_by_key
    union all
    select 'workspace', account, spend_date, member, spend_usd from marts.daily_spend_by_workspace
    union all
    select 'user', account, spend_date, member, spend_usd from marts.daily_spend_by_user
    union all
    select 'app', account, spend_date, member, spend_usd from marts.daily_spend_by_app
),

parts as (
    select
        spend_date as "from",
        spend_date + 1 as "to",
        least(place - 1, 6) as place,
        sum(spend_usd) as spend_usd
    from members
    inner join spent using (account, dimension, member)
    inner join marts.spend_summary as summary using (account)
    where spend_date between close_date - 29 and close_date
    group by all
)

select
    'day' as unit,
    (select any_value(dimension) from members) as dimension,
    (select min("from") from parts) as first,
    (select max("from") from parts) as last,
    (select list(parts order by "from", place) from parts) as parts,
    (select list(member order by place) from members where place <= 6) as largest,
    (select count(*) from members where place > 6) as others,
    (select share from members where place = 1) as share
