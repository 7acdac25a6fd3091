-- Mean pinball loss of an account's forecast (USD) per horizon, beside that of the plain 7-day mean.

with losses as (
    select
        horizon_days,
        horizon_days || ' days' as horizon,
        unnest(['This forecast', '7-day average']) as kind,
        unnest([pinball_loss_usd, flat_7d_pinball_loss_usd]) as loss_usd
    from marts.forecast_accuracy
    where account = $account and pinball_loss_usd is not null and flat_7d_pinball_loss_usd is not null
)

select list(losses order by horizon_days, kind desc) as losses from losses
