-- The 80 % interval was right in 70 to 90 % of an account's last 100 replays whose horizon has passed. A warning: replays
-- overlap, so an account in a change of regime leaves this band now and then, and the width factor answers by itself.
{{ config(severity='warn') }}

with last_replays as (
    select account, is_inside_80
    from {{ ref('int_forecast_replays') }}
    qualify row_number() over (
        partition by account order by origin_date + cast(horizon_days as integer) desc, horizon_days
    ) <= 100
)

select account, count(*) as replays, count(*) filter (where is_inside_80) as inside_80
from last_replays
group by account
-- Fewer tell too little.
having count(*) = 100 and not count(*) filter (where is_inside_80) between 70 and 90
order by account
