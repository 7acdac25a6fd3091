-- Alerts that became due earlier and whose cause is not gone; of each its newest record.

from ops.alerts_sent
where cleared_at is null
qualify row_number() over (partition by alert_key order by due_at desc, channel) = 1
order by alert_key
