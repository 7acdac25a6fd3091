-- Spend of an account by model: the six largest of the last 366 days, all others together; per UTC day up to 60 days,
-- per week (from Monday) beyond, so that bars stay wide enough.

with spent as (
    select spend_date, model, spend_usd
    from marts.daily_spend_by_model
    where account = $account
    qualify spend_date > max(spend_date) over () - 366 and spend_usd <> 0
),

models as (
    select model, sum(spend_usd) as spend_usd, row_number() over (order by sum(spend_usd) desc, model) - 1 as place
    from spent
    group by model
),

span as (
    select
        min(spend_date) as first,
        max(spend_date) as last,
        if(max(spend_date) - min(spend_date) < 60, 'day', 'week') as unit
    from spent
),

parts as (
    select
        cast(date_trunc(unit, spend_date) as date) as "from",
        cast(date_trunc(unit, spend_date) as date) + if(unit = 'day', 1, 7) as "to",
        least(place, 6) as place,
        sum(spent.spend_usd) as spend_usd
    from spent
    cross join span
    inner join models on spent.model = models.model
    group by all
)

select
    first,
    last,
    unit,
    (select list(parts order by "from", place) from parts) as parts,
    (select list(model order by place) from models where place < 6) as largest,
    (select count(*) from models where place >= 6) as others,
    (select max(models.spend_usd) / nullif(greatest(sum(models.spend_usd), 0), 0) from models) as share
from span
