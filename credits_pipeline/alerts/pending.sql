-- What channels (by fingerprint) have not accepted yet, the most urgent first: of accounts that still have a key
-- ($accounts); of past events ($past) what became due since $since; of one account's credits only the nearest, used up,
-- else the nearest threshold.

select *
from ops.alerts_sent as a
where sent_at is null
    and cleared_at is null
    and (not list_contains($past, kind) or due_at >= $since)
    and (account is null or list_contains($accounts, account))
    and not exists (
        from ops.alerts_sent as nearer
        where nearer.account = a.account and a.kind = 'run_out' and nearer.cleared_at is null
            and (nearer.kind = 'exhausted' or nearer.kind = 'run_out' and nearer.threshold_days < a.threshold_days)
    )
order by list_position($urgency, kind), run_out_p50 nulls last, due_at, a.rowid
