"""The assets: one module each; a module's docstring is the asset's description in the UI."""

import warnings

import dagster as dg

# Backfill policies and code references are marked beta. Dagster is pinned, so the warning would help nobody here.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
