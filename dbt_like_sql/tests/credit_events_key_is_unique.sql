-- The primary key holds, and no part of it is null: account, event_at_latest, kind.
select account, event_at_latest, kind, count(*) as rows_found
from {{ ref('credit_events') }}
group by account, event_at_latest, kind
having count(*) > 1 or account is null or event_at_latest is null or kind is null
