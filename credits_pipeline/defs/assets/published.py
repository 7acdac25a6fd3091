"""`credits.duckdb`, the file that BI tools open: every mart, tables only, all from the same build.

It is replaced atomically after the SQL has been committed, so a reader sees yesterday's file or today's and never
half of one, and neither side ever waits for the other. `marts.published` in it says which run wrote it, when, as of
which reading and with which version of this program, and whether the figures are simulated.

The same tables are beside it as Parquet, `parquet/<mart>.parquet`, and in `metrics.prom` the figures that Prometheus
watches.
"""

from importlib.metadata import version

import dagster as dg

from credits_pipeline import clock, config
from credits_pipeline.report import answer
from credits_pipeline.sql_project import SqlProject
from credits_pipeline.warehouse import AnyWarehouse, tables_of

KEY = dg.AssetKey("published")


def published(project: SqlProject) -> dg.AssetsDefinition:
    marts = [model.name for model in project.models.values() if model.schema_name == "marts"]

    @dg.asset(
        key=KEY,
        deps=marts,
        description=__doc__,
        group_name="delivery",
        kinds={"duckdb"},
        pool="warehouse",
    )
    def publish(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[AnyWarehouse]
    ) -> dg.MaterializeResult[None]:
        with warehouse.reading("looking for the tables to publish") as con:
            missing = sorted(set(marts).difference(tables_of(con, "marts")))
        if missing:
            raise dg.Failure(
                f"nothing was published, because these tables were never built: {', '.join(missing)}. Run the job"
                " rebuild.",
                allow_retries=False,
            )
        settings = config.current()
        target = settings.published_path
        warehouse.publish(
            target,
            run_id=context.run.run_id,
            published_at=clock.now(),
            version=version("credits-pipeline"),
            is_simulated=settings.is_simulated,
        )
        answer.write_metrics(settings)
        return dg.MaterializeResult(
            metadata={"dagster/uri": str(target), "tables": len(marts), "size_bytes": target.stat().st_size}
        )

    return publish
