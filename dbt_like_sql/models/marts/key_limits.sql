-- One row per account and API key of the account's newest list: its limit, how much of it is used, when it begins anew, and
-- how likely the key is to reach it before. From the same forecast as the run-out of the account, of the key's own spend.
-- Guarantee: a probability is given where a date would be (three complete days, two with spend, some of it in the last 30
-- days), 1 where the limit is used up; it never falls while the same window lasts and nothing else changes. Null for a
-- key without a limit, a disabled one, and one whose limit counts inference that credits never paid, which its counter
-- leaves out.

with listed as (
    select *
    from {{ source('raw', 'api_keys') }}
    qualify observed_at = max(observed_at) over (partition by account)
),

uses as (
    select
        account,
        key_hash,
        min(spend_date) filter (where spend_usd is not null) as first_date,
        max(spend_date) filter (where spend_usd > 0) as last_used_date,
        -- Since the midnight at which the forecast begins.
        max_by(spend_usd, spend_date) as spend_today_usd
    from {{ ref('int_key_spend') }}
    group by account, key_hash
),

keys as (
    select
        listed.*,
        cast(listed.observed_at as date) as list_date,
        cast(
            case listed.limit_reset
                when 'daily' then list_date + 1
                when 'weekly' then date_trunc('week', list_date) + interval 7 days
                when 'monthly' then date_trunc('month', list_date) + interval 1 month
            end as timestamp
        ) as resets_at,
        cast(listed.limit_usd - listed.limit_remaining_usd as decimal(18, 9)) as used_usd,
        cast(listed.limit_remaining_usd + coalesce(uses.spend_today_usd, 0) as double) as left_at_close,
        list_date - coalesce(
            if(listed.usage_daily_usd > 0, list_date, uses.last_used_date),
            if(listed.usage_usd = 0, cast(listed.created_at as date), null),
            uses.first_date
        ) as unused_days,
        listed.limit_remaining_usd <= 0 as is_used_up,
        series.series,
        series.last_date
    from listed
    left join uses using (account, key_hash)
    left join {{ ref('int_series') }} as series using (account, key_hash)
),

starts as (
    select
        keys.account,
        keys.key_hash,
        keys.list_date,
        keys.resets_at,
        keys.left_at_close,
        forecast.* exclude (series, origin_date)
    from keys
    inner join {{ ref('int_spend_forecast') }} as forecast
        on keys.series = forecast.series
        and keys.last_date = forecast.origin_date
    where forecast.is_dated and not keys.is_disabled and not keys.has_byok_in_limit
),

days as (
    select
        account,
        key_hash,
        -- The first day ahead is that of the list.
        list_date + cast(day_ahead as integer) - 1 as reached_date,
        {{ probability_spent('left_at_close', spend_median('day_ahead'), spend_log_scale('day_ahead')) }} as probability
    from starts
    cross join range(1, {{ var('forecast_horizon_days') + 1 }}) as horizon (day_ahead)
    where left_at_close > 0 and (resets_at is null or reached_date < resets_at)
),

-- More days never make it less likely.
reached as (
    select
        account,
        key_hash,
        max(probability) as probability,
        min(reached_date) filter (where probability >= 0.5) as limit_reached_p50
    from days
    group by account, key_hash
)

select
    keys.account,
    keys.key_hash,
    keys.name,
    keys.workspace,
    keys.limit_usd,
    keys.used_usd,
    keys.limit_remaining_usd as remaining_usd,
    keys.limit_reset,
    keys.resets_at,
    case
        when keys.unused_days >= {{ var('idle_days') }} or keys.is_disabled then cast(0 as decimal(18, 9))
        else {{ usd('starts.level_usd') }}
    end as expected_daily_spend_usd,
    case
        when keys.resets_at is null then null
        when keys.is_used_up then 1
        else reached.probability
    end as probability_before_reset,
    if(keys.is_used_up, keys.list_date, reached.limit_reached_p50) as limit_reached_p50,
    keys.limit_usd is null as has_no_limit,
    cast(keys.unused_days as bigint) as unused_days,
    cast(keys.expires_at as date) as expires_on,
    keys.is_disabled
from keys
left join starts using (account, key_hash)
left join reached using (account, key_hash)
order by keys.account, keys.key_hash
