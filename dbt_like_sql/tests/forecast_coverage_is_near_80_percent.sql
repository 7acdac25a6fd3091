-- The 80 % interval was right in 70 to 90 % of an account's last 100 replays whose horizon has passed. A warning that
-- blocks nothing: the replays overlap, so that one change of regime counts many times and a sound forecast leaves this
-- band now and then. There is nothing to repair or to set: the width answers by itself as the record grows. Until then
-- each row says how to read the dates. Judge a forecast by `coverage_80` of forecast_accuracy, over the whole record.
{{ config(severity='warn') }}

with last_replays as (
    select account, is_inside_80
    from {{ ref('int_forecast_replays') }}
    qualify row_number() over (
        partition by account order by origin_date + cast(horizon_days as integer) desc, horizon_days
    ) <= 100
)

select
    account,
    count(*) as replays,
    count(*) filter (where is_inside_80) as inside_80,
    if(
        inside_80 < 70,
        'spend left the 80 % interval too often of late, dates can be off by more than P10 to P90 say: '
        || 'plan with the early one. Do not tune anything, the interval widens by itself',
        'the 80 % interval was wider than need be of late, dates are on the careful side. '
        || 'Nothing to do, it narrows by itself'
    ) as meaning
from last_replays
group by account
-- Fewer tell too little.
having count(*) = 100 and not inside_80 between 70 and 90
order by account
