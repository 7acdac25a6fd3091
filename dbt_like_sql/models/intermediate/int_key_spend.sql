-- One row per account, key and UTC day, no day left out: from the key's first known day to the day of its newest listing,
-- which is not over. What the key spent, from two sources:
-- - between two listings, the move of its own counter, shared out by time as for accounts (int_midnights). It belongs to
--   the key's hash, so that renames and keys of one name change nothing; a counter that is missing is unknown, and its
--   neighbours are used;
-- - before that, the bill of its name, where no other key of the account ever had it: up to a year of history on the first
--   day. A day before the key was made belongs to an older key of that name.
-- Guarantee: `is_complete` is false for a day without either source, for the running day, and for a day on which the key's
-- limit was used up from its first minutes to its last: what it would have spent is not known.

with listings as (
    select
        account,
        key_hash,
        name,
        cast(observed_at as date) as list_date,
        observed_at,
        usage_usd,
        created_at,
        limit_usd is not null as has_limit,
        limit_remaining_usd <= 0 as is_used_up
    from {{ source('raw', 'api_keys') }}
),

stretches as (
    select
        account,
        key_hash,
        list_date,
        observed_at,
        usage_usd,
        lag(list_date) over listing_before as before_date,
        lag(observed_at) over listing_before as before_at,
        lag(usage_usd) over listing_before as before_usd
    from listings
    where usage_usd is not null
    window listing_before as (partition by account, key_hash order by observed_at)
),

-- A first list within two hours of its midnight stands for it, as a reading does.
midnights as (
    select
        account,
        key_hash,
        cast(unnest(generate_series(coalesce(before_date + 1, list_date), list_date, interval 1 day)) as date) as midnight_date,
        midnight_date = list_date as is_measured,
        cast(
            case
                when before_at is null then usage_usd
                else before_usd + (usage_usd - before_usd) * (
                    (epoch_us(cast(midnight_date as timestamp)) - epoch_us(before_at))
                    / (epoch_us(observed_at) - epoch_us(before_at))
                )
            end as decimal(18, 9)
        ) as usage_usd
    from stretches
    where before_at is not null or observed_at <= list_date + interval 2 hours
),

newest as (
    select
        account,
        key_hash,
        max(list_date) as newest_date,
        arg_max(usage_usd, observed_at) filter (where usage_usd is not null) as newest_usd,
        min(list_date) as first_date,
        arg_min(name, observed_at) as first_name,
        min(created_at) as created_at,
        arg_max(has_limit, observed_at) as has_limit
    from listings
    group by account, key_hash
),

-- From each midnight to the next; on the last day up to its listing.
counted as (
    select
        midnights.account,
        midnights.key_hash,
        midnights.midnight_date as spend_date,
        midnights.is_measured,
        cast(
            coalesce(lead(midnights.usage_usd) over (
                partition by midnights.account, midnights.key_hash order by midnights.midnight_date
            ), newest.newest_usd) - midnights.usage_usd as decimal(18, 9)
        ) as spend_usd
    from midnights
    inner join newest using (account, key_hash)
),

own_names as (
    select
        account,
        name
    from listings
    where name <> ''
    group by account, name
    having count(distinct key_hash) = 1
),

first_counted as (
    select
        account,
        key_hash,
        min(spend_date) as counted_from
    from counted
    group by account, key_hash
),

billed as (
    select
        newest.account,
        newest.key_hash,
        days.usage_date as spend_date,
        true as is_measured,
        cast(coalesce(sum(bill.credits_usd), 0) as decimal(18, 9)) as spend_usd
    from newest
    inner join own_names on newest.account = own_names.account and newest.first_name = own_names.name
    left join first_counted on newest.account = first_counted.account and newest.key_hash = first_counted.key_hash
    inner join {{ source('raw', 'usage_breakdown_days') }} as days
        on newest.account = days.account
        and days.dimension = 'api_key'
        and days.fetched_at >= days.usage_date + interval 1 day
        and days.usage_date >= coalesce(cast(newest.created_at as date), date '1970-01-01')
        and days.usage_date < coalesce(first_counted.counted_from, newest.newest_date)
    left join {{ source('raw', 'usage_breakdown') }} as bill
        on days.account = bill.account
        and days.usage_date = bill.usage_date
        and days.dimension = bill.dimension
        and newest.first_name = bill.member
    group by newest.account, newest.key_hash, days.usage_date
),

known as (
    select * from counted
    union all
    select * from billed
),

-- A key whose making is not known begins with the first day on which it spent anything, or with its listings.
days as (
    select
        newest.account,
        newest.key_hash,
        newest.newest_date,
        newest.has_limit,
        cast(
            unnest(generate_series(
                least(
                    min(known.spend_date) filter (where known.spend_usd > 0 or newest.created_at is not null),
                    newest.first_date
                ),
                newest.newest_date,
                interval 1 day
            )) as date
        ) as spend_date
    from newest
    left join known using (account, key_hash)
    group by newest.account, newest.key_hash, newest.newest_date, newest.has_limit, newest.first_date
),

used_up_days as (
    select
        first_list.account,
        first_list.key_hash,
        first_list.list_date as spend_date
    from listings as first_list
    inner join listings as next_list
        on first_list.account = next_list.account
        and first_list.key_hash = next_list.key_hash
        and first_list.list_date + 1 = next_list.list_date
    where first_list.is_used_up and next_list.is_used_up
)

select
    days.account,
    days.key_hash,
    days.spend_date,
    known.spend_usd,
    known.spend_usd is not null and used_up_days.spend_date is null and days.spend_date < days.newest_date as is_complete,
    coalesce(known.is_measured, false) as is_measured,
    days.has_limit
from days
left join known using (account, key_hash, spend_date)
left join used_up_days using (account, key_hash, spend_date)
order by account, key_hash, spend_date
