"""Watch prepaid LLM credits: what was spent each day, on what, and when they run out.

`read_mart("daily_spend")` gives any published table as a pandas DataFrame with exact money.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from credits_pipeline.warehouse import read_mart

__all__ = ["read_mart"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: importing the package must stay free of DuckDB and pandas.
    if name == "read_mart":
        from credits_pipeline.warehouse import read_mart

        return read_mart
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
