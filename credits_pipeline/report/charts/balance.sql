-- The balance of an account at the close of each UTC day, running into the fan of the forecast up to a little past the
-- late end of the run-out interval. No fan where the status gives no date: it would suggest one all the same. On the
-- first day, when no close is known, the newest reading stands in for it.

with runway as (
    from marts.credits_runway where account = $account
),

forecast as (
    from marts.balance_forecast where account = $account and exists (from runway where status = 'ok')
),

fan as (
    -- The balance where it starts.
    select
        min(forecast_date) - 1 as forecast_date,
        arg_min(balance_p50 + spend_p50, forecast_date) as balance_p10,
        arg_min(balance_p50 + spend_p50, forecast_date) as balance_p50,
        arg_min(balance_p50 + spend_p50, forecast_date) as balance_p90
    from forecast
    having count(*) > 0

    union all

    select forecast_date, balance_p10, balance_p50, balance_p90
    from forecast
    where forecast_date <= (
        select
            coalesce(
                run_out_p90 + cast(greatest(3, (run_out_p90 - (select min(forecast_date) from forecast)) // 8) as int),
                date '9999-01-01'
            )
        from runway
    )
),

closes as (
    select balance_date, balance_usd, is_estimated
    from marts.daily_balance
    where account = $account
    qualify count(balance_usd) over () > 0
),

past as (
    from closes

    union all

    select
        coalesce((select min(forecast_date) from fan), cast(as_of as date) - 1),
        coalesce((select arg_min(balance_p50, forecast_date) from fan), balance_usd),
        null
    from runway
    where balance_usd is not null and not exists (from closes)
),

ends as (
    select
        max(balance_date) filter (where balance_usd is not null) as last,
        coalesce((select max(forecast_date) from fan), max(balance_date) filter (where balance_usd is not null))
            as last_of_fan
    from past
),

-- Twice as many days as the fan has, from 45 to a year.
shown as (
    select past.*
    from past, ends
    where balance_date <= last
        and balance_date > last - cast(least(greatest(2 * (last_of_fan - last), 45), 365) as int)
    qualify balance_date >= min(balance_date) filter (where balance_usd is not null) over ()
)

select
    (select list(shown order by balance_date) from shown) as past,
    (select list(fan order by forecast_date) from fan) as fan,
    (select last_of_fan + 1 from ends) as "end",
    exists (from closes) as has_closes,
    (select runway from runway) as runway
