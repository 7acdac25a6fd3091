"""The weekly digest: a job that sends it, and the job's schedule. What it says stands in `alerts/`."""

import dagster as dg

from credits_pipeline import config
from credits_pipeline.alerts.due import by_week
from credits_pipeline.alerts.notify import notify
from credits_pipeline.warehouse import AnyWarehouse


@dg.op(
    description="Sends the digest to the channels of CREDITS_ALERT_URLS, once on a UTC day.",
    retry_policy=dg.RetryPolicy(max_retries=3, delay=60),  # a run that sends alerts, or a program that holds the file
)
def send_digest(context: dg.OpExecutionContext, warehouse: dg.ResourceParam[AnyWarehouse]) -> None:
    sent = notify(config.current(), warehouse, by_week, run_id=context.run.run_id, log=context.log)
    context.log.info(
        f"{sent.delivered} delivered" if sent.due else "nothing was read yet, or it went out today already"
    )


@dg.job(description="What the last 7 days cost and what comes, in one short message, with the report where it can be.")
def weekly_digest() -> None:
    send_digest()


@dg.schedule(
    name="weekly_digest",
    job=weekly_digest,
    cron_schedule=config.current().digest_cron or config.DEFAULT_DIGEST_CRON,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Sends the weekly digest, where alerts have a channel (CREDITS_ALERT_URLS) and CREDITS_DIGEST_CRON is "
    "not empty.",
)
def weekly_digest_schedule() -> dg.RunRequest | dg.SkipReason:
    if not config.current().digest_cron:
        return dg.SkipReason("alerts have no channel (CREDITS_ALERT_URLS), or CREDITS_DIGEST_CRON is empty")
    return dg.RunRequest()
