-- One row per account and UTC day (the newest complete one and the replayed ones before it): the distribution of what is
-- spent after its close. The sum of h days is log-logistic: its median is level_usd times the sum of the days' weekday
-- factors, and the variance of its logarithm is
--     width_factor · (ln(1 + day_noise / h + level_noise) + drift_per_day · h + noise_floor) + disagreement
-- Guarantee: a row rests on the days up to its own only, so that a past row is the forecast that would have been made.
-- Only days on which something had been spent within the 180 days before are here.

{% set history = var('forecast_history_days') %}
{% set levels = ['slow', 'medium', 'fast'] %}
{% set prior = var('memory_weight_prior_days') %}

with records as (
    select
        noise.*,
        cast(sum(backtest.judged_days) over recent as double) as judged_days
        {%- for level in levels + ['middle'] %},
        cast(sum(backtest.error_{{ level }}) over recent as double) as error_{{ level }}
        {%- endfor %},
        max(noise.spend_usd) over (
            partition by noise.account order by noise.spend_date
            rows between {{ var('idle_days') - 1 }} preceding and current row
        ) > 0 as has_spent_lately,
        max(noise.spend_date) over (partition by noise.account) as last_complete_date
    from {{ ref('int_spend_noise') }} as noise
    inner join {{ ref('int_forecast_backtest') }} as backtest
        on noise.account = backtest.account
        and noise.spend_date = backtest.spend_date
    window recent as (
        partition by noise.account order by noise.spend_date
        rows between {{ history - 1 }} preceding and current row
    )
),

-- A level counts for the more the better it did: (mean squared error) ^ -4, errors of 1 standing in for the unseen past.
weights as (
    select
        *
        {%- for level in levels %},
        {{ 'if(is_fast_level_used, 1, 0) * ' if level == 'fast' -}}
        power((error_{{ level }} + {{ prior }}) / (judged_days + {{ prior }}), -{{ var('memory_weight_power') }})
            as weight_{{ level }},
        ln(greatest(level_{{ level }}, 1e-300)) as log_{{ level }}
        {%- endfor %}
    from records
    where spend_date > last_complete_date - {{ var('forecast_replay_days') }}
    and active_days > 0
),

shares as (
    select
        *
        {%- for level in levels %},
        weight_{{ level }} / (weight_slow + weight_medium + weight_fast) as share_{{ level }}
        {%- endfor %}
    from weights
),

middles as (
    select
        *,
        share_slow * log_slow + share_medium * log_medium + share_fast * log_fast as log_level
    from shares
)

select
    account,
    spend_date as origin_date,
    -- Whether that night's forecast would have been given as dates, see the status of credits_runway.
    days >= {{ var('runway_min_days') }} and active_days >= {{ var('runway_min_days_with_spend') }} and has_spent_lately
        as is_dated,
    weekday_factors,
    exp(log_level) as level_usd,
    share_slow,
    share_medium,
    share_fast,
    -- What the levels disagree by is uncertainty too: after a change of regime the answer widens by itself.
    share_slow * power(log_slow - log_level, 2)
    + share_medium * power(log_medium - log_level, 2)
    + share_fast * power(log_fast - log_level, 2) as disagreement,
    (width_prior + error_middle) / (width_prior + judged_days) as width_factor,
    day_noise,
    level_noise,
    drift_per_day,
    noise_floor
from middles
order by account, origin_date
