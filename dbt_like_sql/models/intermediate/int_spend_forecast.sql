-- One row per series and UTC day (the newest complete one and the replayed ones before it): the distribution of what is
-- spent after its close. The sum of h days is log-logistic. Its median is the level times the sum of the days' weekday
-- factors, h // 7 * 7 + factor_sums[h % 7 + 1]; the variance of its logarithm is
--     width_factor · (ln(1 + day_noise / h + level_noise) + drift_per_day · h + noise_floor) + disagreement
-- Level and disagreement depend on the share of the fast level, which fades with the horizon: macros/forecast.sql.
-- Guarantee: a row uses only the days up to its own, so that a past row is the forecast that would have been made.
-- Only days with some spend within the 180 days before them are here.

-- Materialized: tables made in the same transaction have no statistics yet, and with all joins in one query DuckDB
-- (1.5.6) starts from every factor of every day: twice the time.
with estimates as materialized (
    select
        levels.series,
        levels.spend_date,
        levels.days,
        levels.active_days,
        levels.days_since_spend,
        ln(greatest(levels.level_slow, 1e-300)) as log_slow,
        ln(greatest(levels.level_fast, 1e-300)) as log_fast,
        levels.day_noise,
        levels.level_noise,
        levels.drift_per_day,
        levels.noise_floor,
        levels.erratic,
        record.share_fast,
        record.width_factor
    from {{ ref('int_forecast_backtest') }} as record
    inner join {{ ref('int_spend_levels') }} as levels using (series, spend_date)
    where levels.active_days > 0
),

origins as (
    select *
    from estimates
    inner join {{ ref('int_series') }} using (series)
    inner join {{ ref('int_weekday_profile') }} as profile using (series, spend_date)
)

select
    series,
    spend_date as origin_date,
    -- Whether that night's forecast would have been given as dates, see the status of credits_runway.
    coalesce(
        spend_date >= enough_date and days_since_spend < {{ var('idle_days') }},
        false
    ) as is_dated,
    -- The factors of the first 0 to 6 days ahead, summed; those of a whole week sum to 7.
    [cast(0 as double)
        {%- for day in range(1, 7) %},
        {%- for earlier in range(1, day + 1) %}
        {{ '+ ' if not loop.first }}factors_ahead[{{ earlier }}]
        {%- endfor %}
        {%- endfor %}
    ] as factor_sums,
    -- An erratic account's weeks seldom cost what their mean says: bursts lift the mean above the usual week, and a level
    -- that saw idle days lies below that of the days when it is used again.
    exp(
        log_slow + share_fast * (log_fast - log_slow)
        + erratic * ({{ var('idle_lift') }} * (1 - active_days / days) - {{ var('burst_drop') }})
    ) as level_usd,
    if(share_fast > 0, log_fast - log_slow, 0) as level_gap,
    share_fast,
    -- A burst says much about tomorrow and little about next month.
    {{ var('fast_level_fade') }} * erratic as fade,
    width_factor,
    day_noise,
    level_noise,
    drift_per_day,
    noise_floor
from origins
