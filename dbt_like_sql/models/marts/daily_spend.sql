-- One row per account and UTC day, no day left out: from the first known day (the earlier of the first day billed above
-- zero and the day of the first reading) to the day of the newest reading.
-- Guarantee: from the first reading to the newest, the sum of `observed_usd` is exactly the change of the counter. A day
-- without readings is filled from its bill, else by sharing out the gap by time, and `method` says which. A counter that
-- fell gives a negative figure: it is never clamped.

with days as (
    select
        account,
        midnight_date as spend_date,
        readings,
        before_at is not null as has_reading_before_start,
        is_near as is_start_read,
        lead(is_near) over next_midnight as is_end_read,
        lead(before_at) over next_midnight is not null as has_reading_before_end,
        lead(after_at) over next_midnight is not null as has_reading_after_end,
        -- On the day of the first reading, spend counts from that reading; on the running day, up to the newest one.
        coalesce(total_usage, after_usage) as usage_at_start,
        lead(coalesce(total_usage, before_usage)) over next_midnight as usage_at_end
    from {{ ref('int_midnights') }}
    window next_midnight as (partition by account order by midnight_date)
    -- The last midnight only ends a day.
    qualify lead(midnight_date) over next_midnight is not null
),

figures as (
    select
        days.*,
        case
            when days.has_reading_before_end
                then cast(days.usage_at_end - days.usage_at_start as decimal(18, 9))
        end as observed_usd,
        bills.credits_usd as billed_usd,
        coalesce(bills.is_whole_day, false) as is_billed_whole,
        days.has_reading_after_end or coalesce(bills.is_whole_day, false) as is_over
    from days
    left join {{ ref('stg_model_usage_days') }} as bills
        on days.account = bills.account
        and days.spend_date = bills.usage_date
),

methods as (
    select
        *,
        case
            -- The running day has no end yet: only its start must have been read.
            when is_start_read and (is_end_read or not is_over) then 'observed'
            when is_billed_whole then 'billed'
            else 'interpolated'
        end as method
    from figures
)

select
    account,
    spend_date,
    case method when 'billed' then billed_usd else observed_usd end as spend_usd,
    method,
    is_over and (is_start_read or has_reading_before_start or is_billed_whole) as is_complete,
    observed_usd,
    billed_usd,
    case method when 'observed' then cast(observed_usd - billed_usd as decimal(18, 9)) end as residual_usd,
    cast(readings as bigint) as readings
from methods
order by account, spend_date
