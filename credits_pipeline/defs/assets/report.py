"""`report.html`, the one page for whoever pays: the balance, the spend, when credits run out, and how sure that is.

One self-contained file, written from the published copy after each daily run: no request to anywhere, readable on a
phone and on paper. Its figures are as of the newest reading, in USD and UTC days.
"""

import dagster as dg

from credits_pipeline import config
from credits_pipeline.defs.assets import published
from credits_pipeline.report import page

KEY = dg.AssetKey("report")


@dg.asset(
    key=KEY,
    deps=[published.KEY],
    description=__doc__,
    group_name="delivery",
    kinds={"html"},
    op_tags={"dagster/priority": "-1"},  # after the alerts, which must not wait for drawings
)
def report() -> dg.MaterializeResult[None]:
    settings = config.current()
    page.write(settings)
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.path(settings.report_path),
            "dagster/uri": dg.MetadataValue.url(settings.report_path.as_uri()),
            "size_bytes": settings.report_path.stat().st_size,
        }
    )
