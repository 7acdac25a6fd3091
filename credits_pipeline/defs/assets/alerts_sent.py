"""Which alerts went out when: credits that run out or are used up, and days that cost more than seemed possible.

After each run the newest figures are looked at, and what became due goes to the channels of `CREDITS_ALERT_URLS`
(without one, to the log). One row per alert and channel in `ops.alerts_sent`; an alert is due once until its cause is
over, whatever restarts. A channel that does not answer fails no run: it is tried again, by the next run and by the
sensor `stale_data`. Alerts about runs that fail or never happen come from sensors, which need the Dagster daemon.
Money is USD, days and instants are UTC.
"""

import dagster as dg

from credits_pipeline import config
from credits_pipeline.alerts import due
from credits_pipeline.alerts.notify import AlertsBusy, Sent, notify
from credits_pipeline.defs.assets import published
from credits_pipeline.defs.metadata import columns, preview
from credits_pipeline.warehouse import AnyWarehouse, WarehouseBusy

KEY = dg.AssetKey("alerts_sent")
NEWEST = "(select due_at, sent_at, cleared_at, account, kind, threshold_days, channel, title from ops.alerts_sent)"


@dg.asset(
    key=KEY,
    deps=[published.KEY],
    description=__doc__,
    group_name="delivery",
    kinds={"apprise", "duckdb"},
)
def alerts_sent(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[AnyWarehouse]
) -> dg.MaterializeResult[None]:
    try:
        sent = notify(config.current(), warehouse, due.by_marts, run_id=context.run.run_id, log=context.log)
        with warehouse.reading("describing the alerts") as con:
            table = {
                "dagster/row_count": con.execute("select count(*) from ops.alerts_sent").fetchall()[0][0],
                "dagster/column_schema": columns(con, "ops", "alerts_sent"),
                "preview": preview(con, NEWEST),
            }
    except (AlertsBusy, WarehouseBusy) as busy:
        # What is due stays due: the next run and the sensor `stale_data` look again.
        context.log.warning(str(busy))
        sent, table = Sent(), {}
    failed = sum(not outcome.delivered for outcome in sent.outcomes)
    counts = {"alerts_due": len(sent.due), "alerts_delivered": sent.delivered, "channels_failed": failed}
    return dg.MaterializeResult(metadata={**counts, "dagster/table_name": "ops.alerts_sent", **table})
