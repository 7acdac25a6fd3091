-- One row per account of marts.credits_runway, with what alerts ask about its purchases: when credits last arrived, the
-- advised purchase, and whether credits are bought automatically, as is configured or as the last top-ups suggest. A
-- suggestion counts no more once two readings were below its threshold and nothing arrived.

select
    runway.*,
    summary.unknown_days_7d,
    summary.unknown_days_30d,
    purchase,
    outlook.is_suggestion is not null as is_automatic,
    coalesce(outlook.is_suggestion, false) as is_suggestion,
    outlook.below_usd,
    outlook.buys_usd,
    (
        select max(event_at_latest) from marts.credit_events
        where account = runway.account and kind = 'top_up'
    ) as topped_up_at
from marts.credits_runway as runway
left join marts.spend_summary as summary on runway.account = summary.account
left join marts.topup_plan as purchase on runway.account = purchase.account and purchase.is_advised
left join marts.topup_outlook as outlook
    on runway.account = outlook.account
    and (not outlook.is_suggestion or coalesce(outlook.below_since = outlook.as_of, true))
order by runway.run_out_p50 nulls last, runway.run_out_p10 nulls last, runway.account
