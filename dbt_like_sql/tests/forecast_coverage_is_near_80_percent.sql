-- The 80 % interval was right in 70 to 90 % of an account's last 100 replays whose horizon has passed. A warning
-- only: replays overlap, so one change in spending counts many times, and even a sound forecast leaves this band now and
-- then. There is nothing to fix or to tune: the width adjusts by itself as the record grows. Until then each row says
-- how to read the dates. Judge a forecast by `coverage_80` of forecast_accuracy, over the whole record.
{{ config(severity='warn') }}

with last_replays as (
    select series, is_inside_80
    from {{ ref('int_forecast_replays') }}
    qualify row_number() over (
        partition by series order by origin_date + cast(horizon_days as integer) desc, horizon_days
    ) <= 100
)

select
    account,
    count(*) as replays,
    count(*) filter (where is_inside_80) as inside_80,
    if(
        inside_80 < 70,
        'recently, actual spend fell outside the 80 % interval too often, so real dates may lie beyond P10 to P90: '
        || 'plan with P10. Nothing to tune: the interval widens by itself',
        'the 80 % interval has recently been wider than necessary, so dates are on the cautious side. '
        || 'Nothing to do: it narrows by itself'
    ) as meaning
from last_replays
inner join {{ ref('int_series') }} using (series)
where key_hash is null
group by account
-- Fewer replays say too little.
having count(*) = 100 and not inside_80 between 70 and 90
order by account
