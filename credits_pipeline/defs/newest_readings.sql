-- The newest reading of each account: its key's fingerprint (null: imported) and its counters (USD).
select
    account,
    arg_max(key_fingerprint, observed_at) as fingerprint,
    max(observed_at) as observed_at,
    arg_max(total_credits, observed_at) as bought,
    arg_max(total_usage, observed_at) as used
from raw.credits_snapshots
group by account
