-- The newest reading of each account with each key: its fingerprint (null: imported) and the account's counters (USD).
select
    account,
    key_fingerprint as fingerprint,
    max(observed_at) as observed_at,
    arg_max(total_credits, observed_at) as bought,
    arg_max(total_usage, observed_at) as used
from raw.credits_snapshots
group by account, key_fingerprint
order by account
