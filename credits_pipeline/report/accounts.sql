-- One row per account that was ever read or billed: its row of credits_runway (null if never read), its periods of
-- spend, since when it has been read, and whether nothing was ever bought or spent.

with readings as (
    select
        account,
        min(observed_at) as first_read_at,
        bool_and(total_credits = 0 and total_usage = 0) as is_unused
    from marts.credits_readings
    group by account
)

select
    account,
    runway.* exclude (account, spend_7d_usd, spend_30d_usd),
    readings.* exclude (account),
    spend.* exclude (account)
from marts.credits_runway as runway
full join marts.spend_summary as spend using (account)
left join readings using (account)
