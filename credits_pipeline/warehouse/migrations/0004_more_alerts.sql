-- More kinds of alerts, told apart by words only.

comment on column ops.alerts_sent.kind is
    'exhausted, run_out, topup_overdue, key_limit, budget, spend (a day above what the forecast held possible), expiry, '
    'stale (no new readings), run_failed, or digest (the weekly one).';
