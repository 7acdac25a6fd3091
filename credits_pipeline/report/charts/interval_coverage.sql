-- How often actual spend of an account fell inside the 80 % interval, per horizon.

with checks as (
    select horizon_days, horizon_days || ' days' as horizon, coverage_80, replays
    from marts.forecast_accuracy
    where account = $account and coverage_80 is not null
)

select list(checks order by horizon_days) as checks from checks
