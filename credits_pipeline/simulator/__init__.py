"""A simulated OpenRouter: accounts with a believable year behind them, over honest local HTTP.

The demo and the tests read from it; the pipeline itself never imports it.
"""

from credits_pipeline.simulator.accounts import SimulatedAccount, demo_accounts
from credits_pipeline.simulator.keys import SimulatedKey
from credits_pipeline.simulator.ledger import LedgerEvent, ModelUsage
from credits_pipeline.simulator.profiles import AGENTS, HOBBY, STEADY, Profile
from credits_pipeline.simulator.readings import EarlierReading, readings, write_readings
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
    "SimulatedKey",
    "demo_accounts",
    "readings",
    "write_readings",
]
