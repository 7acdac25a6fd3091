-- One row per account with a key, the most urgent first, with what the weekly digest says of it: the week beside the one
-- before, the two keys (without a breakdown by key, models) whose spend moved most, when credits run out and what a week
-- ago was thought, the month, what to buy. Quiet: about the same spend, credits for a month or bought automatically, the
-- budget in no danger.
-- A row is stale if its reading is of before $stale_before (UTC).
-- And the titles of the alerts that stand or are new since $since, of other things than the digest itself says.

with keys as (
    select account, member as name, spend_7d_usd - before_7d_usd as moved_usd
    from marts.spend_summary_by_member
    where dimension = 'api_key' and member <> '(unattributed)' and before_7d_usd is not null
),

billed as (
    select summary.account, summary.close_date
    from marts.spend_summary as summary
    inner join marts.daily_spend as spend
        on summary.account = spend.account
        and spend.spend_date between summary.close_date - 13 and summary.close_date
    where spend.billed_usd is not null
    group by summary.account, summary.close_date
    having count(*) = 14
),

models as (
    select
        billed.account,
        models.model as name,
        sum(if(models.spend_date > billed.close_date - 7, models.spend_usd, -models.spend_usd)) as moved_usd
    from billed
    inner join marts.daily_spend_by_model as models
        on billed.account = models.account
        and models.spend_date between billed.close_date - 13 and billed.close_date
    anti join keys on billed.account = keys.account
    group by billed.account, models.model
),

movers as (
    select account, list({name: name, moved_usd: moved_usd} order by abs(moved_usd) desc, name)[:2] as movers
    from (from keys union all by name from models)
    where moved_usd <> 0
    group by account
),

purchases as (
    select events.account, sum(events.amount_usd) as bought_usd
    from marts.credit_events as events
    inner join marts.credits_runway as runway using (account)
    where events.kind = 'top_up' and events.event_at_latest > runway.as_of - interval 7 days
    group by events.account
),

alerts as (
    select title, due_at, list_position($urgency, kind) as place
    from ops.alerts_sent
    where cleared_at is null
        and kind not in ('exhausted', 'run_out', 'digest')
        and (not list_contains($past, kind) or due_at >= $since)
    qualify row_number() over (partition by alert_key order by due_at desc, channel) = 1
)

select
    runway.*,
    coalesce(runway.as_of < $stale_before, false) as is_stale,
    (select list(replace(title, '[SIMULATED] ', '') order by place, due_at)[:5] from alerts) as alerts,
    summary.before_7d_usd,
    summary.unknown_days_7d,
    summary.unknown_days_before_7d,
    sum(summary.spend_7d_usd) over () as total_7d_usd,
    movers.movers,
    history.run_out_p50 as run_out_then,
    purchases.bought_usd,
    outlook,
    topup,
    purchase,
    runway.status in ('ok', 'idle')
    and coalesce(abs(summary.spend_7d_usd - summary.before_7d_usd) <= summary.before_7d_usd / 4, false)
    and coalesce(not topup.is_overdue or runway.run_out_p50 > cast(runway.as_of as date) + 30, true)
    and coalesce(outlook.probability_over_budget <= 0.5, true) as is_quiet
from marts.credits_runway as runway
left join marts.spend_summary as summary on runway.account = summary.account
left join movers on runway.account = movers.account
left join purchases on runway.account = purchases.account
left join marts.runway_history as history
    on runway.account = history.account
    and history.as_of_date = summary.close_date - 7
left join marts.month_outlook as outlook on runway.account = outlook.account
left join marts.topup_outlook as topup on runway.account = topup.account and not topup.is_suggestion
left join marts.topup_plan as purchase
    on runway.account = purchase.account and purchase.is_advised and coalesce(topup.is_overdue, true)
where list_contains($accounts, runway.account)
order by runway.urgency, runway.account
