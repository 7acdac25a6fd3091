-- One row per account and horizon (7, 14 and 30 days): how accurate the forecast was, replayed for each of the last 120
-- days whose horizon has passed, compared with simply repeating the mean of the last 7 days.
-- Guarantee: every replay uses only the days up to its own, backfilled history included; every day of its horizon is
-- known, and something was left that night. A horizon without any replay has no row. Replays overlap, so a hundred of them are worth far fewer independent ones.

-- A level and its complement: 1 - 0.9 in floating point has 17 digits, and the sum would run in 128-bit arithmetic.
{% set quantiles = {'p10': [0.1, 0.9], 'p50': [0.5, 0.5], 'p90': [0.9, 0.1]} %}

with replays as (
    -- Wider than money: the losses of an account of a hundred million would fail the build for all.
    select
        series.account,
        replays.* replace (cast(replays.spent_usd as decimal(28, 9)) as spent_usd)
    from {{ ref('int_forecast_replays') }} as replays
    inner join {{ ref('int_series') }} as series using (series)
    where series.key_hash is null
),

losses as (
    select
        account,
        horizon_days,
        is_inside_80,
        -- Decimals give the same sum in any order.
        (
            {%- for quantile, (level, complement) in quantiles.items() %}
            {{ '+ ' if not loop.first }}greatest(
                {{ level }} * (spent_usd - spend_{{ quantile }}), {{ complement }} * (spend_{{ quantile }} - spent_usd)
            )
            {%- endfor %}
        ) / 3 as pinball,
        -- One figure for all quantiles: its losses at P10, P50 and P90 average to half its absolute error.
        abs(spent_usd - flat_7d_spend) * 0.5 as flat_pinball,
        spent_usd = flat_7d_spend as is_flat_right,
        cast(
            power(probability - if(spent_usd >= virtual_balance_usd, 1, 0), 2) as decimal(18, 17)
        ) as squared_error,
        if((flat_7d_spend >= virtual_balance_usd) = (spent_usd >= virtual_balance_usd), 0, 1) as flat_squared_error
    from replays
)

select
    account,
    horizon_days,
    count(*) as replays,
    count(*) filter (where is_inside_80) / count(*) as coverage_80,
    cast(avg(pinball) as decimal(18, 9)) as pinball_loss_usd,
    avg(squared_error) as brier_score,
    count(*) filter (where is_flat_right) / count(*) as flat_7d_coverage_80,
    cast(avg(flat_pinball) as decimal(18, 9)) as flat_7d_pinball_loss_usd,
    avg(flat_squared_error) as flat_7d_brier_score
from losses
group by account, horizon_days
order by account, horizon_days
