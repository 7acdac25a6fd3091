-- One row per series of daily spend that is forecast: every account of daily_spend, every key with a limit. The
-- models of the forecast know a series by its number alone, which is small and quick to compare.
-- Guarantee: numbers run from 1 in the order of the names, those of accounts before those of keys.

with days as (
    select
        account,
        key_hash,
        spend_date,
        is_complete,
        is_complete and spend_usd > 0 as has_spend
    from ({{ series_days() }})
)

select
    cast(row_number() over (order by key_hash is not null, account, key_hash) as integer) as series,
    account,
    key_hash,
    min(spend_date) filter (where is_complete) as first_date,
    max(spend_date) filter (where is_complete) as last_date,
    case
        when count(*) filter (where is_complete) >= {{ var('runway_min_days') }}
            and count(*) filter (where has_spend) >= {{ var('runway_min_days_with_spend') }}
            then greatest(
                (min(spend_date, {{ var('runway_min_days') }}) filter (where is_complete))[
                    {{ var('runway_min_days') }}
                ],
                (min(spend_date, {{ var('runway_min_days_with_spend') }}) filter (where has_spend))[
                    {{ var('runway_min_days_with_spend') }}
                ]
            )
    end as enough_date
from days
group by account, key_hash
