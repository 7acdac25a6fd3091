-- How often the 80 % interval of an account was right so far, at the horizon nearest to its run-out date.

select horizon_days, replays, coverage_80
from marts.forecast_accuracy
where account = $account and replays > 0
order by
    abs(horizon_days - coalesce((select days_left_p50 from marts.credits_runway where account = $account), 365)),
    horizon_days
limit 1
