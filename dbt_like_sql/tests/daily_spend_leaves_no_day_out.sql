-- Between an account's first day and its last there is a row for every day.
select
    account,
    min(spend_date) as first_day,
    max(spend_date) as last_day,
    count(*) as days
from {{ ref('daily_spend') }}
group by account
having count(*) <> max(spend_date) - min(spend_date) + 1
