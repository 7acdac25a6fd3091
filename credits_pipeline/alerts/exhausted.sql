-- One row per account whose credits are used up. Where nothing was ever bought or spent that is no news, and nothing to
-- top up for.

select account, account as key
from marts.credits_runway
where status = 'exhausted'
    and account in (from marts.credits_readings select account where total_credits <> 0 or total_usage <> 0)
