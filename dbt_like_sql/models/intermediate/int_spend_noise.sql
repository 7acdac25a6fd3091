-- One row per account and UTC day: how uncertain the spend of the days to come was at the close of that day, before the
-- account's own record is consulted.
-- Guarantee: for every h the log-variance of an h-day sum, ln(1 + day_noise / h + level_noise) + drift_per_day · h +
-- noise_floor, is positive; no later day moves a row.

with constants as (
    select
        *
        {%- for name in var('calm') %},
        cast(
            case when cv2 <= {{ var('calm_max_cv2') }} then {{ var('calm')[name] }} else {{ var('bursty')[name] }} end
            as double
        ) as {{ name }}
        {%- endfor %}
    from {{ ref('int_spend_levels') }}
),

shrunk as (
    select
        *,
        ((days - 1) * cv2 + prior_days * prior_cv2) / (days - 1 + prior_days) as noise_cv2
    from constants
)

select
    account,
    spend_date,
    day_number,
    days,
    active_days,
    active_share,
    spend_usd,
    weekday,
    weekday_factors,
    level_slow,
    level_medium,
    level_fast,
    is_fast_level_used,
    noise_cv2 * day_noise as day_noise,
    noise_cv2 * level_noise * inverse_sample_size as level_noise,
    drift_30d / 30 as drift_per_day,
    floor as noise_floor,
    width_prior
from shrunk
order by account, spend_date
