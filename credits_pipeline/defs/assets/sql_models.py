"""Every model of dbt_like_sql as an asset of its own, every test as an asset check, all in one step.

One step is one transaction: build the selected models, test them, then commit, or change nothing at all.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from credits_pipeline import config
from credits_pipeline.defs.assets import credits_snapshots, model_usage
from credits_pipeline.defs.pictures import exists, picture_metadata
from credits_pipeline.defs.preview import preview
from credits_pipeline.sql_project import BuildResult, Model, ModelResult, SqlProject, Test, TestResult
from credits_pipeline.text import markdown
from credits_pipeline.warehouse import Warehouse

if TYPE_CHECKING:
    import duckdb

PROJECT_DIR = config.PROJECT_ROOT / "dbt_like_sql"

# Which asset fills which raw table.
RAW_ASSETS = {
    "raw.credits_snapshots": credits_snapshots.KEY,
    "raw.model_usage": model_usage.KEY,
    "raw.model_usage_days": model_usage.KEY,
}


# Check → the mart that sums up what it looks at, shown in its metadata.
ROLL_UPS = {"spend_agrees_with_the_bill": "spend_reconciliation_monthly"}
ROLLED_UP_ROWS = 24


class BlockedBuild(Exception):
    """Leaves the transaction by raising, so that it is rolled back; carries what was found."""

    def __init__(self, result: BuildResult) -> None:
        super().__init__("; ".join(test.message for test in result.blocking))
        self.result = result


def sql_models(project: SqlProject) -> dg.AssetsDefinition:
    """All models and tests of `project` as one subsettable step."""
    tests = {(model.name, test.name): test for model in project.models.values() for test in model.tests}

    @dg.multi_asset(
        name="sql_models",
        specs=[asset_spec(project, model) for model in project.models.values()],
        check_specs=[check_spec(test) for test in tests.values()],
        can_subset=True,
        pool="warehouse",
    )
    def build(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        models = [key.path[-1] for key in context.selected_asset_keys]
        checks = {(key.asset_key.path[-1], key.name) for key in context.selected_asset_check_keys}
        try:
            with warehouse.writing("building the SQL models") as con:
                result = project.build(con, select=None if len(models) == len(project.models) else models)
                result = add_unselected_tests(project, con, result, [tests[key] for key in checks])
                if result.blocked:
                    raise BlockedBuild(result)
                metadata = {m.model: model_metadata(con, project.models[m.model], m) for m in result.models}
                rolled_up = roll_ups(con)
        except BlockedBuild as blocked:
            yield from check_results(blocked.result, checks)
            raise dg.Failure(
                f"the tables were not rebuilt, because {blocked}. The previous tables are unchanged. Fix the data or "
                "the test, then run again.",
                allow_retries=False,
            ) from None
        for name, entries in metadata.items():
            yield dg.MaterializeResult(asset_key=name, metadata=entries)
        yield from check_results(result, checks, rolled_up)

    return build


def add_unselected_tests(
    project: SqlProject, con: "duckdb.DuckDBPyConnection", result: BuildResult, wanted: list[Test]
) -> BuildResult:
    """Run also the tests that were asked for without their model (an asset check executed alone)."""
    done = {(r.test.model, r.test.name) for r in result.tests}
    lone = [test for test in wanted if (test.model, test.name) not in done]
    return BuildResult(result.models, (*result.tests, *project.test(con, lone)), result.dropped)


def asset_spec(project: SqlProject, model: Model) -> dg.AssetSpec:
    """The model as people see it in the UI: what it means, its columns, its SQL, where it is written."""
    return dg.AssetSpec(
        model.name,
        deps=[*model.depends_on, *{RAW_ASSETS[source] for source in model.sources}],
        description=model.comment,
        group_name=model.schema_name,
        kinds={"duckdb", "sql"},
        tags={tag: "" for tag in model.config.tags},
        metadata={
            "dagster/table_name": f"{model.schema_name}.{model.name}",
            "dagster/column_schema": dg.TableSchema(
                [dg.TableColumn(c.name, c.data_type, c.description) for c in model.columns]
            ),
            "sql": dg.MetadataValue.md(f"```sql\n{model.sql.strip()}\n```"),
            "dagster/code_references": dg.CodeReferencesMetadataValue(
                code_references=[
                    dg.LocalFileCodeReference(file_path=str(project.root.parent / path))
                    for path in (model.path, model.yml_path)
                ]
            ),
        },
    )


def check_spec(test: Test) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        test.name,
        asset=test.model,
        description=test.description,
        blocking=test.severity == "error",
    )


def check_results(
    result: BuildResult, wanted: set[tuple[str, str]], rolled_up: Mapping[str, dg.MetadataValue] | None = None
) -> Iterator[dg.AssetCheckResult]:
    for test in result.tests:
        if (test.test.model, test.test.name) in wanted:
            yield check_result(test, (rolled_up or {}).get(test.test.name))


def check_result(result: TestResult, roll_up: dg.MetadataValue | None = None) -> dg.AssetCheckResult:
    error = result.test.severity == "error"
    return dg.AssetCheckResult(
        asset_key=result.test.model,
        check_name=result.test.name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN,
        # Markdown to the UI, and names from outside are in it: escaped here, plain in the metadata, for alerts.
        description=markdown(result.message),
        metadata={
            "failing_rows": result.failing_rows,
            "reason": result.message,
            **({"by_month": roll_up} if roll_up else {}),
        },
    )


def roll_ups(con: "duckdb.DuckDBPyConnection") -> dict[str, dg.MetadataValue]:
    """What some checks show beside their verdict, as Markdown tables."""
    return {
        test: preview(con, f"marts.{table}", rows=ROLLED_UP_ROWS)
        for test, table in ROLL_UPS.items()
        if exists(con, table)
    }


def model_metadata(con: "duckdb.DuckDBPyConnection", model: Model, result: ModelResult) -> dict[str, Any]:
    """What a build says of a table: its size, the figures worth plotting, its newest rows."""
    return {
        **picture_metadata(con, model.name),
        "dagster/row_count": result.row_count,
        "build_seconds": round(result.seconds, 4),
        **plot_metadata(con, model),
        "preview": preview(con, model.relation),
    }


def plot_metadata(con: "duckdb.DuckDBPyConnection", model: Model) -> dict[str, Any]:
    """The model's own `meta: plots:`, metadata key → aggregate over its rows, kept under stable names."""
    plots = model.config.meta.get("plots", {})
    if not plots:
        return {}
    row = con.execute(f"select {', '.join(plots.values())} from {model.relation}").fetchone() or ()
    return {name: metadata_value(value) for name, value in zip(plots, row, strict=True) if value is not None}


def metadata_value(value: Any) -> dg.MetadataValue:
    """Numbers are plotted over time by the UI; dates are shown as text."""
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    try:
        return dg.MetadataValue.float(float(value))
    except (TypeError, ValueError):
        return dg.MetadataValue.text(str(value))
