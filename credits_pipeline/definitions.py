"""Wiring: which assets, checks, jobs, schedules, sensors and resources there are. Nothing else."""

from datetime import timedelta

import dagster as dg

from credits_pipeline import config, launch
from credits_pipeline.defs import housekeeping, schedules, sensors, weekly_digest
from credits_pipeline.defs.assets import (
    alerts_sent,
    api_keys,
    credits_snapshots,
    model_usage,
    published,
    report,
    sql_models,
    usage_breakdown,
)
from credits_pipeline.openrouter import OpenRouter
from credits_pipeline.sql_project import SqlProject
from credits_pipeline.warehouse import AnyWarehouse, open_warehouse

STALE_AFTER = config.current().stale_after
SNAPSHOTS_FRESH = dg.FreshnessPolicy.time_window(fail_window=STALE_AFTER, warn_window=STALE_AFTER - timedelta(hours=10))
# Tags to filter the catalogue by. Who is meant to look, by group; engineers look at all the rest.
AUDIENCES = {"marts": "analysts", "delivery": "everyone"}
# Readings cannot be fetched again and alerts must not repeat: a backup must hold these. All else can be rebuilt.
RAW_TABLES = {key: table for table, key in sql_models.RAW_ASSETS.items() if not table.endswith("_days")}
KEPT = {*RAW_TABLES, alerts_sent.KEY}

project = SqlProject.load(sql_models.PROJECT_DIR)
OWNERS = [str(project.meta["owner"])]  # of the SQL models and of everything around them


def with_policies(spec: dg.AssetSpec) -> dg.AssetSpec:
    """What holds for every asset, said once: owner, tags, what raw tables look like, when the others are rebuilt."""
    audience = AUDIENCES.get(spec.group_name or "", "engineers")
    spec = spec.replace_attributes(owners=spec.owners or OWNERS)
    spec = spec.merge_attributes(tags={"audience": audience, "state": "kept" if spec.key in KEPT else "derived"})
    if spec.key not in RAW_TABLES:
        is_alerts = spec.key == alerts_sent.KEY
        rebuilt = schedules.WITH_A_REBUILD if is_alerts else schedules.AFTER_CHANGES
        return spec.replace_attributes(automation_condition=rebuilt)
    source = project.sources[RAW_TABLES[spec.key]]
    columns = [dg.TableColumn(c.name, c.data_type, c.description) for c in source.columns]
    spec = spec.replace_attributes(
        group_name="raw",
        kinds={"openrouter", "duckdb"},
        freshness_policy=SNAPSHOTS_FRESH if spec.key == credits_snapshots.KEY else None,
    )
    return spec.merge_attributes(
        metadata={"dagster/table_name": RAW_TABLES[spec.key], "dagster/column_schema": dg.TableSchema(columns)}
    )


@dg.resource(
    description="The DuckDB file that the pipeline writes, in CREDITS_DATA_DIR; or the lake that CREDITS_LAKE names."
)
def warehouse(context: dg.InitResourceContext) -> AnyWarehouse:
    launch.tag_with_process(context)
    return open_warehouse(config.current())


ASSETS = [
    credits_snapshots.credits_snapshots,
    usage_breakdown.usage_breakdown,
    model_usage.model_usage,
    api_keys.api_keys,
    sql_models.sql_models(project),
    published.published(project),
    report.report,
    alerts_sent.alerts_sent,
]

defs = dg.Definitions(
    assets=dg.with_source_code_references([asset.map_asset_specs(with_policies) for asset in ASSETS]),
    asset_checks=[
        credits_snapshots.every_account_was_read,
        model_usage.every_account_was_fetched,
        usage_breakdown.every_breakdown_was_fetched,
        api_keys.every_list_of_keys_was_read,
        *([sql_models.every_shard_was_rebuilt] if config.current().lake else []),
    ],
    jobs=[*schedules.JOBS, weekly_digest.weekly_digest, housekeeping.housekeeping],
    schedules=[*schedules.SCHEDULES, weekly_digest.weekly_digest_schedule, housekeeping.housekeeping_schedule],
    sensors=[*schedules.SENSORS, *sensors.SENSORS],
    resources={"openrouter": OpenRouter(), "warehouse": warehouse},
    loggers={"console": launch.console},
    executor=dg.in_process_executor,  # one process per run: each further one would import Dagster again
)
