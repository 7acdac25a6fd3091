-- One row per account and UTC day (the newest complete one and the replayed ones before it): the distribution of what is
-- spent after its close. The sum of h days is log-logistic. Its median is level_usd times the sum of the days' weekday
-- factors, h // 7 * 7 + factor_sums[h % 7 + 1]; the variance of its logarithm is
--     width_factor · (ln(1 + day_noise / h + level_noise) + drift_per_day · h + noise_floor) + disagreement
-- Guarantee: a row rests on the days up to its own only, so that a past row is the forecast that would have been made.
-- Only days on which something had been spent within the 180 days before are here.

{% set levels = ['slow', 'fast'] %}
{% set prior = var('memory_weight_prior_days') %}

with last_days as (
    select
        account,
        max(spend_date) as last_date
    from {{ ref('int_spend_levels') }}
    group by account
),

origins as (
    select
        levels.*,
        levels.days_since_spend < {{ var('idle_days') }} as has_spent_lately
    from {{ ref('int_spend_levels') }} as levels
    inner join last_days
        on levels.account = last_days.account
        and levels.spend_date > last_days.last_date - {{ var('forecast_replay_days') }}
    where levels.active_days > 0
),

-- A level counts for the more the better it did: (mean squared error) ^ -4, errors of 1 standing in for the unseen past.
weights as (
    select
        origins.*,
        profiles.factors_ahead,
        backtest.judged_days,
        backtest.error_middle
        {%- for level in levels %},
        {{ 'if(is_fast_level_used, 1, 0) * ' if level == 'fast' -}}
        power(
            (backtest.error_{{ level }} + {{ prior }}) / (backtest.judged_days + {{ prior }}),
            -{{ var('memory_weight_power') }}
        ) as weight_{{ level }},
        ln(greatest(origins.level_{{ level }}, 1e-300)) as log_{{ level }}
        {%- endfor %}
    from origins
    inner join {{ ref('int_forecast_backtest') }} as backtest using (account, spend_date)
    inner join {{ ref('int_weekday_profile') }} as profiles using (account, spend_date)
),

middles as (
    select
        *,
        weight_fast / (weight_slow + weight_fast) as share_fast,
        (weight_slow * log_slow + weight_fast * log_fast) / (weight_slow + weight_fast) as log_level
    from weights
)

select
    account,
    spend_date as origin_date,
    -- Whether that night's forecast would have been given as dates, see the status of credits_runway.
    days >= {{ var('runway_min_days') }} and active_days >= {{ var('runway_min_days_with_spend') }} and has_spent_lately
        as is_dated,
    -- The factors of the first 0 to 6 days ahead, summed; those of a whole week sum to 7.
    [cast(0 as double)
        {%- for day in range(1, 7) %},
        {%- for earlier in range(1, day + 1) %}
        {{ '+ ' if not loop.first }}factors_ahead[{{ earlier }}]
        {%- endfor %}
        {%- endfor %}
    ] as factor_sums,
    exp(log_level) as level_usd,
    -- What the levels disagree by is uncertainty too: after a change of regime the answer widens by itself.
    share_fast * (1 - share_fast) * power(log_slow - log_fast, 2) as disagreement,
    (width_prior + error_middle) / (width_prior + judged_days) as width_factor,
    day_noise,
    level_noise,
    drift_per_day,
    noise_floor
from middles
