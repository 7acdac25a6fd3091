-- One row per series of daily spend that is forecast: every account with a complete day. The models of the forecast know a
-- series by its number alone, which is small and quick to compare.
-- Guarantee: numbers run from 1 in the order of the names, without a gap.

select
    cast(row_number() over (order by account) as integer) as series,
    account,
    cast(null as varchar) as key_hash,
    min(spend_date) as first_date,
    max(spend_date) as last_date,
    case
        when count(*) >= {{ var('runway_min_days') }}
            and count(*) filter (where spend_usd > 0) >= {{ var('runway_min_days_with_spend') }}
            then greatest(
                (min(spend_date, {{ var('runway_min_days') }}))[{{ var('runway_min_days') }}],
                (min(spend_date, {{ var('runway_min_days_with_spend') }}) filter (where spend_usd > 0))[
                    {{ var('runway_min_days_with_spend') }}
                ]
            )
    end as enough_date
from {{ ref('daily_spend') }}
where is_complete
group by account
