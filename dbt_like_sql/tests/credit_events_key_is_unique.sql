-- The primary key holds: account, event_at_latest, kind.
select account, event_at_latest, kind, count(*) as rows_found
from {{ ref('credit_events') }}
group by account, event_at_latest, kind
having count(*) > 1
