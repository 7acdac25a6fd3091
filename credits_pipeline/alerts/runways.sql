-- One row per account of marts.credits_runway, with what alerts ask about its purchases: the advised one, and whether
-- credits are bought automatically, as is configured or as the last top-ups suggest. A suggestion counts no more once two
-- readings were below its threshold and nothing arrived.
-- And what is due about its run-out: `due`, the thresholds of $thresholds (days) that were crossed and not told of, the
-- nearest first, of which only the nearest is sent; `resolved`, the keys of alerts that are armed again. Where credits are
-- bought automatically nothing is due; where they only seem to be, the first crossing says so, and the others nothing.
-- Used-up credits are an alert of their own.

with runways as (
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
        ) as topped_up_at,
        runway.run_out_p50 - cast(runway.as_of as date) as days_left
    from marts.credits_runway as runway
    left join marts.spend_summary as summary on runway.account = summary.account
    left join marts.topup_plan as purchase on runway.account = purchase.account and purchase.is_advised
    left join marts.topup_outlook as outlook
        on runway.account = outlook.account
        and (not outlook.is_suggestion or coalesce(outlook.below_since = outlook.as_of, true))
),

active as (
    select *, alert_key like '%/automatic' as is_about_topups
    from ops.alerts_sent
    where kind = 'run_out' and cleared_at is null
    qualify row_number() over (partition by alert_key order by due_at desc, channel) = 1
),

judged as (
    select
        account,
        alert_key,
        if(is_about_topups, null, threshold_days) as threshold,
        case
            when status = 'exhausted' then false
            when is_automatic and not is_suggestion then true
            -- The automatic top-up did not arrive: all is told anew.
            when not is_automatic and bool_or(is_about_topups) over (partition by account) then true
            when is_about_topups then false
            -- Idle, or beyond a year; too little history says nothing.
            when days_left is null then status <> 'accumulating'
            -- The date varies by about a fifth of the threshold from one reading to the next.
            when days_left >= threshold_days + greatest(1, ceil(0.2 * threshold_days)) then true
            -- Credits were bought: armed as soon as the date lies beyond it; also if the purchase is spent already by this
            -- reading, which shows in a date that has moved by more than the threshold.
            when topped_up_at > active.as_of
                then days_left >= threshold_days or coalesce(runways.run_out_p50 - active.run_out_p50 >= threshold_days, false)
            else false
        end as is_resolved
    from active
    inner join runways using (account)
),

told as (
    select
        account,
        list(alert_key) filter (where is_resolved) as resolved,
        coalesce(list(threshold) filter (where not is_resolved and threshold is not null), []) as thresholds
    from judged
    group by account
),

crossed as (
    select
        runways.account,
        threshold,
        coalesce(told.thresholds, []) as thresholds,
        {
            'threshold': threshold,
            'key': 'run_out/' || account || '/' || if(is_automatic, 'automatic', cast(threshold as varchar)),
            'is_superseded': threshold > least(min(threshold) over (partition by account), list_min(told.thresholds))
        } as alert
    from runways
    cross join (select unnest(cast($thresholds as bigint[])) as threshold)
    left join told using (account)
    where days_left < threshold and status <> 'exhausted' and (is_suggestion or not is_automatic)
)

select
    runways.*,
    coalesce(told.resolved, []) as resolved,
    coalesce(
        (
            select list(alert order by threshold) from crossed
            where crossed.account = runways.account and not list_contains(thresholds, threshold)
        ),
        []
    )[:if(is_automatic, 1, 99)] as due
from runways
left join told using (account)
order by urgency, account
