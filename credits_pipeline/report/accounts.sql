-- One row per account that was ever read or billed, or has a key: its row of credits_runway (null if never read), whether
-- its reading is too old to speak of the present (of before $stale_before, UTC), its periods of spend, the purchase to
-- advise or the automatic top-up that makes one needless, the running month, and who spent most on the last day and in 7
-- days (each a struct, of nulls where nothing is known). The most urgent first; at the end those without a key.
-- $accounts: who has a key. Where nobody has, as in a copy of the tables on another machine, nothing is known of keys.

with keys as (select unnest(cast($accounts as varchar[])) as account),

topups as (from marts.topup_outlook where not is_suggestion),

spenders as (
    select
        account,
        any_value(dimension) as dimension,
        max_by({'member': member, 'usd': spend_1d_usd}, spend_1d_usd) filter (where spend_1d_usd > 0) as most_1d,
        max_by({'member': member, 'usd': spend_7d_usd}, spend_7d_usd) filter (where spend_7d_usd > 0) as most_7d
    from marts.spend_summary_by_member
    where dimension_rank = 1
    group by account
)

select
    account,
    keys.account is not null or len($accounts) = 0 as has_key,
    runway.* exclude (account, spend_7d_usd, spend_30d_usd),
    coalesce(runway.as_of < $stale_before, false) as is_stale,
    spend.* exclude (account),
    spenders,
    topup,
    purchase,
    outlook
from marts.credits_runway as runway
full join marts.spend_summary as spend using (account)
full join keys using (account)
left join spenders using (account)
left join topups as topup using (account)
left join marts.topup_plan as purchase
    on runway.account = purchase.account and purchase.is_advised and coalesce(topup.is_overdue, true)
left join marts.month_outlook as outlook using (account)
order by not has_key, urgency nulls last, account
