-- The primary key holds, and no part of it is null: account, spend_date, cause_rank.
select account, spend_date, cause_rank, count(*) as rows_found
from {{ ref('unusual_spend') }}
group by account, spend_date, cause_rank
having count(*) > 1 or account is null or spend_date is null or cause_rank is null
