"""What is planned for each account: its budget, its automatic top-up, and how long its credits shall last.

Variables are named as those of the keys are: the plain one is for the account `default`, `…_<NAME>` for `<name>`.
"""

import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from credits_pipeline import clock
from credits_pipeline.env_file import ConfigError, Environment

_AMOUNT = r"(\d{1,8}(?:\.\d{1,2})?)"
# The forecast's horizon: nobody can say how much to buy beyond it.
_LONGEST = timedelta(days=365)


@dataclass(frozen=True)
class AccountPlan:
    """A row of raw.account_plans; money is USD, None where nothing is configured."""

    account: str
    budget_usd: Decimal | None = None  # per UTC month
    topup_below_usd: Decimal | None = None
    topup_buys_usd: Decimal | None = None
    topup_until: date | None = None


def account_plans(env: Environment, accounts: Collection[str], problems: list[str]) -> tuple[AccountPlan, ...]:
    """A plan for each of `accounts`, and for each other account that a variable names.

    What cannot be read is left out, with a line about it in `problems`.
    """
    plans = {name: AccountPlan(name) for name in accounts}
    for variable in sorted(env):
        found = re.fullmatch(r"(?:(CREDITS_BUDGET|CREDITS_AUTO_TOPUP)(?:_(\w+))?|CREDITS_TOPUP_UNTIL)", variable)
        try:
            if not found or not (text := env.get(variable)):
                continue
            if not found[1]:
                until = _until(text)
                plans = {name: replace(plan, topup_until=until) for name, plan in plans.items()}
                continue
            name = (found[2] or "default").lower()
            read = _budget if found[1] == "CREDITS_BUDGET" else _auto_topup
            plans[name] = replace(plans.get(name, AccountPlan(name)), **read(variable, text))
            if name not in accounts:
                problems.append(f"{variable} is for the account {name}, which has no key")
        except ConfigError as problem:
            problems.append(str(problem))
    return tuple(plans.values())


def _budget(variable: str, text: str) -> dict[str, Any]:
    found = re.fullmatch(rf"{_AMOUNT} ?/ ?month", text)
    if not found or not Decimal(found[1]):
        raise ConfigError(f"{variable} must be an amount in USD per month, such as 500/month")
    return {"budget_usd": Decimal(found[1])}


def _auto_topup(variable: str, text: str) -> dict[str, Any]:
    found = re.fullmatch(rf"{_AMOUNT} ?: ?{_AMOUNT}", text)
    if not found or not Decimal(found[2]):
        raise ConfigError(f"{variable} must be two amounts in USD, such as 10:50 where 50 are bought below 10")
    return {"topup_below_usd": Decimal(found[1]), "topup_buys_usd": Decimal(found[2])}


def _until(text: str) -> date:
    with suppress(ValueError):
        if clock.today() <= (day := date.fromisoformat(text)) <= clock.today() + _LONGEST:
            return day
    raise ConfigError("CREDITS_TOPUP_UNTIL must be a day of the coming year, such as 2026-12-31")
