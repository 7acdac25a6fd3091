"""Every model of dbt_like_sql as an asset of its own, every test as an asset check, all in one step.

One step is one transaction: build the selected models, test them, then commit, or change nothing at all.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import dagster as dg

from credits_pipeline import config
from credits_pipeline.defs import metadata
from credits_pipeline.defs.accounts import FAILED, accounts_check
from credits_pipeline.defs.assets import api_keys, credits_snapshots, model_usage, usage_breakdown
from credits_pipeline.errors import CreditsError
from credits_pipeline.report import drawing
from credits_pipeline.sql_project import SAMPLE_ROWS, BuildResult, Model, ModelResult, SqlProject, Test, TestResult
from credits_pipeline.text import markdown
from credits_pipeline.warehouse import AnyWarehouse, Tables, tables_of
from credits_pipeline.warehouse.tables import replace_rows

PROJECT_DIR = config.PROJECT_ROOT / "dbt_like_sql"

# Which asset fills which raw table; the others hold settings, and are written with the build.
RAW_ASSETS = {
    "raw.credits_snapshots": credits_snapshots.KEY,
    "raw.model_usage": model_usage.KEY,
    "raw.model_usage_days": model_usage.KEY,
    "raw.usage_breakdown": usage_breakdown.KEY,
    "raw.usage_breakdown_days": usage_breakdown.KEY,
    "raw.api_keys": api_keys.KEY,
}

# Check → the mart that sums up what it looks at, shown beside its verdict.
ROLL_UPS = {"spend_agrees_with_the_bill": "spend_reconciliation_monthly"}
ROLLED_UP_ROWS = 24


class BlockedBuild(Exception):
    """Leaves the transaction by raising, so that it is rolled back; its argument is what was found."""


def sql_models(project: SqlProject) -> dg.AssetsDefinition:
    """All models and tests of `project` as one subsettable step."""
    tests = {(model.name, test.name): test for model in project.models.values() for test in model.tests}
    # In a lake, a shard that is blocked stays as it was, and the others are published.
    may_block = config.current().lake is None

    @dg.multi_asset(
        name="sql_models",
        specs=[asset_spec(project, model) for model in project.models.values()],
        check_specs=[check_spec(test, may_block) for test in tests.values()],
        can_subset=True,
        pool="warehouse",
    )
    def build(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[AnyWarehouse]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        with suppress(OSError):
            drawing.start()  # ready by the time the tables are
        models = [key.path[-1] for key in context.selected_asset_keys]
        wanted = {(key.asset_key.path[-1], key.name) for key in context.selected_asset_check_keys}
        settings = config.current()
        shards = warehouse.each(
            build_shard,
            project,
            None if len(models) == len(project.models) else models,
            [tests[key] for key in wanted],
            {"raw.account_plans": settings.plans, "raw.teams": settings.teams},
        )
        result, blocked = merged([result for result, _ in shards]), [shard for shard in shards if shard[0].blocking]
        shown: dict[str, dict[str, Any]] = {}
        if len(blocked) < len(shards):
            shown = described(context, warehouse, project, result)
            left = {name: f"its tables are yesterday's: {part.because}" for part, names in blocked for name in names}
            failed = {FAILED: dg.MetadataValue.json(left)} if blocked else {}
            for built in (built for built in result.models if built.model in models):
                yield dg.MaterializeResult(asset_key=built.model, metadata={**shown.get(built.model, {}), **failed})
        for test in result.tests:
            if (test.test.model, test.test.name) in wanted:
                yield check_result(test, shown.get(test.test.name, {}))
        if len(blocked) == len(shards):
            raise dg.Failure(
                f"the tables were not rebuilt, because {result.because}. The previous tables are unchanged. Fix the"
                " data or the test, then run again.",
                allow_retries=False,
            )

    return build


def build_shard(
    shard: Tables,
    project: SqlProject,
    models: Collection[str] | None,
    wanted: Sequence[Test],
    configured: Mapping[str, Sequence[object] | None],
) -> tuple[BuildResult, list[str]]:
    """Build, test and commit a shard, or change nothing of it; what was found, and whose tables stay as they were."""
    try:
        with shard.writing("building the SQL models") as con:
            for table, rows in configured.items():
                if rows is not None:  # a file of teams with a wrong line changes nothing
                    replace_rows(con, table, rows)
            # Before the first daily run people may fill one raw table by hand: what is then rebuilt needs the others.
            result = project.build(con, None if models is None else {*models, *project.never_built(con)})
            done = {(r.test.model, r.test.name) for r in result.tests}
            # Tests that were asked for without their model: a check executed alone.
            lone = [test for test in wanted if (test.model, test.name) not in done]
            result = replace(result, tests=(*result.tests, *project.test(con, lone)))
            if result.blocking:
                raise BlockedBuild(result)
    except BlockedBuild as blocked:
        with shard.reading("naming the accounts") as con:
            found = con.execute("select distinct account from raw.credits_snapshots order by account").fetchall()
        return blocked.args[0], [name for (name,) in found]
    return result, []


def merged(results: Sequence[BuildResult]) -> BuildResult:
    """What was built and found in all shards together. Tables of a shard that is blocked are not counted."""
    built = [result for result in results if not result.blocking] or results
    models, tests = defaultdict[str, list[ModelResult]](list), defaultdict[Test, list[TestResult]](list)
    for result in built:
        for model in result.models:
            models[model.model].append(model)
    for result in results:
        for test in result.tests:
            tests[test.test].append(test)
    return BuildResult(
        tuple(
            ModelResult(n, sum(p.row_count for p in parts), sum(p.seconds for p in parts))
            for n, parts in models.items()
        ),
        tuple(
            TestResult(
                test,
                sum(part.failing_rows for part in parts),
                tuple(row for part in parts for row in part.sample)[:SAMPLE_ROWS],
            )
            for test, parts in tests.items()
        ),
    )


def described(
    context: dg.AssetExecutionContext, warehouse: AnyWarehouse, project: SqlProject, result: BuildResult
) -> dict[str, dict[str, Any]]:
    """Metadata by model and check: after the commit, so that nothing which goes wrong here can undo it."""
    try:
        with warehouse.built("describing the tables") as con:
            rows = cache(lambda: metadata.by_urgency(con))
            of_models = {m.model: metadata.of_model(con, project.models[m.model], m, rows) for m in result.models}
            rolled_up = {
                check: {"by_month": metadata.preview(con, f"marts.{mart}", rows=ROLLED_UP_ROWS)}
                for check, mart in ROLL_UPS.items()
                if mart in tables_of(con, "marts")
            }
            return of_models | rolled_up
    except CreditsError as error:
        context.log.warning(f"the tables were rebuilt, and could not be described: {error}")
        return {}


def asset_spec(project: SqlProject, model: Model) -> dg.AssetSpec:
    """The model as people see it in the UI: what it means, its columns, its SQL, where it is written."""
    files = [str(project.root.parent / path) for path in (model.path, model.yml_path)]
    return dg.AssetSpec(
        model.name,
        deps=[*model.depends_on, *{RAW_ASSETS[source] for source in model.sources if source in RAW_ASSETS}],
        description=model.comment,
        group_name=model.schema_name,
        kinds={"duckdb", "sql"},
        metadata={
            "dagster/table_name": f"{model.schema_name}.{model.name}",
            "dagster/column_schema": dg.TableSchema(
                [dg.TableColumn(c.name, c.data_type, c.description) for c in model.columns]
            ),
            "sql": dg.MetadataValue.md(f"```sql\n{model.sql.strip()}\n```"),
            "dagster/code_references": dg.CodeReferencesMetadataValue(
                code_references=[dg.LocalFileCodeReference(file_path=file) for file in files]
            ),
        },
    )


def check_spec(test: Test, may_block: bool) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        test.name,
        asset=test.model,
        description=test.description,
        blocking=may_block and test.severity == "error",
    )


def check_result(result: TestResult, beside: dict[str, Any]) -> dg.AssetCheckResult:
    error = result.test.severity == "error"
    return dg.AssetCheckResult(
        asset_key=result.test.model,
        check_name=result.test.name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN,
        # Markdown to the UI, and names from outside are in it: escaped here, plain in the metadata, for alerts.
        description=markdown(result.message),
        metadata={"failing_rows": result.failing_rows, "reason": result.message, **beside},
    )


every_shard_was_rebuilt = accounts_check(
    dg.AssetKey("credits_runway"),
    "every_shard_was_rebuilt",
    "Of a lake: a shard whose tests fail keeps its tables as they were, the others are published, and the run ends red "
    "naming the tests and the accounts.",
)
