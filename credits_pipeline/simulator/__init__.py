"""A simulated OpenRouter: accounts with a believable year behind them, over honest local HTTP.

The demo and the tests read from it; the pipeline itself never imports it.
"""

from credits_pipeline.simulator.ledger import (
    EarlierReading,
    LedgerEvent,
    ModelUsage,
    SimulatedAccount,
    demo_accounts,
    readings,
    write_readings,
)
from credits_pipeline.simulator.profiles import AGENTS, HOBBY, STEADY, Profile
from credits_pipeline.simulator.server import SimulatedAPI

__all__ = [
    "AGENTS",
    "HOBBY",
    "STEADY",
    "EarlierReading",
    "LedgerEvent",
    "ModelUsage",
    "Profile",
    "SimulatedAPI",
    "SimulatedAccount",
    "demo_accounts",
    "readings",
    "write_readings",
]
