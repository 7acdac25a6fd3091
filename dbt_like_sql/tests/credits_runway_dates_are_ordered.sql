-- P10 <= P50 <= P90, no date before the day of the newest reading, and dates exactly where the status allows them.
select account, as_of, status, run_out_p10, run_out_p50, run_out_p90
from {{ ref('credits_runway') }}
where coalesce(run_out_p10 > run_out_p50, run_out_p50 is not null and run_out_p10 is null)
    or coalesce(run_out_p50 > run_out_p90, run_out_p90 is not null and run_out_p50 is null)
    or coalesce(run_out_p10 < cast(as_of as date), false)
    or (status in ('idle', 'accumulating') and run_out_p10 is not null)
    or (status = 'exhausted' and run_out_p90 is distinct from cast(as_of as date))
