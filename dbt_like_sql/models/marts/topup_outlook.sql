-- One row per account with an automatic top-up: when it will next buy, what that will cost, and whether a purchase is
-- overdue. The rule is the configured one; else, as a suggestion only, the one that the last top-ups follow: each of them
-- lies between two readings, and so does the threshold that the balance fell below, if there is one.
-- Guarantee: where the balance is above the threshold, a date is the first on which the spend of balance_forecast has used
-- up what is above it. A suggestion is never overdue.

{% set quantiles = {'p10': 'p90', 'p50': 'p50', 'p90': 'p10'} %}

with configured as (
    select account, topup_below_usd as below_usd, topup_buys_usd as buys_usd, false as is_suggestion
    from {{ ref('int_runway_position') }}
    inner join {{ source('raw', 'account_plans') }} using (account)
    where topup_buys_usd is not null
),

newest_topups as (
    select *
    from {{ ref('credit_events') }}
    where kind = 'top_up'
    qualify row_number() over (partition by account order by event_at_latest desc)
        <= {{ var('suggested_rule_topups') }}
),

ranges as (
    select
        account,
        any_value(topups.amount_usd) as buys_usd,
        max(after.balance_usd - topups.amount_usd) as least_usd,
        min(before.balance_usd) as most_usd
    from newest_topups as topups
    inner join {{ ref('credits_readings') }} as before using (account)
    inner join {{ ref('credits_readings') }} as after using (account)
    where topups.event_at_earliest = before.observed_at and topups.event_at_latest = after.observed_at
    group by account
    having count(*) = {{ var('suggested_rule_topups') }}
        and min(topups.amount_usd) = max(topups.amount_usd)
        and greatest(least_usd, 0) < most_usd
),

rules as (
    from configured
    union all
    -- The roundest number in the range: people choose those.
    select
        account,
        cast(coalesce(
            {%- for step in [100, 50, 10, 5, 1] %}
            if(floor(most_usd / {{ step }}) * {{ step }} > greatest(least_usd, 0), floor(most_usd / {{ step }}) * {{ step }}, null),
            {%- endfor %}
            most_usd
        ) as decimal(18, 9)),
        buys_usd,
        true
    from ranges
    anti join configured using (account)
),

readings as (
    select
        account,
        readings.observed_at,
        rules.below_usd > readings.balance_usd as is_below
    from {{ ref('credits_readings') }} as readings
    inner join rules using (account)
),

-- Nothing counts as late that was not there at the newest top-up, or at the newest reading with enough.
resets as (
    select account, max(observed_at) as reset_at
    from (
        select account, observed_at + interval 1 microsecond as observed_at from readings where not is_below
        union all
        select account, event_at_latest from newest_topups
    )
    group by account
),

waits as (
    select account, min(observed_at) as below_since
    from readings
    left join resets using (account)
    where is_below and (reset_at is null or observed_at >= reset_at)
    group by account
),

places as (
    select
        rules.*,
        place.as_of,
        cast(place.as_of as date) as as_of_date,
        waits.below_since,
        place.balance_at_close_usd - rules.below_usd as spare_usd,
        {{ charged_by_card('rules.buys_usd') }} as charged_usd
    from rules
    inner join {{ ref('int_runway_position') }} as place using (account)
    left join waits using (account)
),

dates as (
    select
        account
        {%- for quantile, spend in quantiles.items() %},
        min(fan.forecast_date) filter (where fan.spend_{{ spend }} > spare_usd) as first_{{ quantile }},
        min(fan.forecast_date) filter (where fan.spend_{{ spend }} > spare_usd + buys_usd) as second_{{ quantile }},
        max(fan.spend_{{ quantile }}) filter (where fan.forecast_date <= as_of_date + 29) as spend_30d_{{ quantile }}
        {%- endfor %}
    from places
    inner join {{ ref('balance_forecast') }} as fan using (account)
    group by account
),

counts as (
    select
        places.*,
        dates.* exclude (account)
        {%- for quantile in quantiles %},
        greatest(
            cast(floor((spend_30d_{{ quantile }} - spare_usd) / buys_usd) as bigint) + 1, if(below_since is null, 0, 1)
        ) as topups_30d_{{ quantile }}
        {%- endfor %}
    from places
    left join dates using (account)
)

select
    account,
    as_of,
    below_usd,
    buys_usd,
    charged_usd,
    is_suggestion
    {%- for quantile in quantiles %},
    if(below_since is null, first_{{ quantile }}, as_of_date) as next_topup_{{ quantile }}
    {%- endfor %}
    {%- for quantile in quantiles %},
    second_{{ quantile }} as following_topup_{{ quantile }}
    {%- endfor %}
    {%- for quantile in quantiles %},
    topups_30d_{{ quantile }}
    {%- endfor %}
    {%- for quantile in quantiles %},
    {{ usd('topups_30d_%s * charged_usd' % quantile) }} as charged_30d_{{ quantile }}_usd
    {%- endfor %},
    below_since,
    not is_suggestion and coalesce(as_of - below_since >= interval {{ var('topup_overdue_hours') }} hour, false)
        as is_overdue
from counts
order by account
