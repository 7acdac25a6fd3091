-- One row per account whose credits are used up. Where nothing was ever bought or spent that is no news.

select account, account as key
from marts.credits_runway
where status = 'exhausted' and not is_unused
