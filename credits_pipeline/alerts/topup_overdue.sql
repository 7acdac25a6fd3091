-- One row per account whose automatic top-up, as configured, is overdue: the card may have failed.

select account, account as key, below_usd, buys_usd, below_since
from marts.topup_outlook
where is_overdue
