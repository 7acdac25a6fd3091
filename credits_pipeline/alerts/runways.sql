-- One row per account of marts.credits_runway, with what alerts ask about its purchases.
-- `top_up_usd` and its companions are null unless credits seem to be bought automatically: the last three top-ups were
-- equal, at balances that differ by no more than what is spent between two readings, and the balance is not below what
-- would have been left without any of them. DOUBLE where figures are computed with: one account's must not overflow for all.

with top_ups as (
    select
        event.account,
        event.amount_usd,
        cast(earlier.balance_usd as double) as balance_before_usd,
        cast(later.balance_usd as double) - cast(event.amount_usd as double) as balance_without_usd
    from marts.credit_events as event
    join marts.credits_readings as earlier
        on event.account = earlier.account and event.event_at_earliest = earlier.observed_at
    join marts.credits_readings as later
        on event.account = later.account and event.event_at_latest = later.observed_at
    where event.kind = 'top_up'
    qualify row_number() over (partition by event.account order by event.event_at_latest desc) <= 3
),

automatic as (
    select
        account,
        count(*) as top_ups,
        min(amount_usd) as top_up_usd,
        max(balance_before_usd) as top_up_below_usd,
        min(balance_without_usd) as top_up_floor_usd
    from top_ups
    group by account
    having count(*) = 3
        and min(amount_usd) = max(amount_usd)
        and max(balance_before_usd) - min(balance_before_usd) <= max(balance_before_usd - balance_without_usd)
)

select
    runway.*,
    summary.unknown_days_7d,
    summary.unknown_days_30d,
    automatic.* exclude (account),
    (
        select max(event_at_latest) from marts.credit_events
        where account = runway.account and kind = 'top_up'
    ) as topped_up_at
from marts.credits_runway as runway
left join marts.spend_summary as summary on runway.account = summary.account
left join automatic
    on runway.account = automatic.account and runway.balance_usd >= automatic.top_up_floor_usd
order by runway.run_out_p50 nulls last, runway.run_out_p10 nulls last, runway.account
