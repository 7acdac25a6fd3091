"""Which key did what of an account's work: the ledger by key behind the simulated API, for tests to compare with."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise

from credits_pipeline.simulator.ledger import Counts, Ledger, midnight

DAY = timedelta(days=1)
DEFAULT_WORKSPACE = "Default"


@dataclass(frozen=True, eq=False)  # two keys that are alike in everything are two
class SimulatedKey:
    """A key with its share of the account's work. Instants are aware; keys may share a name.

    `renamed` and `weighs` say from when on it has another name, another weight. Work without an app is in no row of
    the breakdown by app, as the vendor leaves it out.
    """

    name: str
    weight: int = 1  # of the weights of all keys in use
    workspace: str = DEFAULT_WORKSPACE
    user: str = "Ada Example"
    app: str = ""
    since: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    until: datetime = datetime(9999, 1, 1, tzinfo=UTC)  # deleted: neither used nor listed any more
    renamed: tuple[datetime, str] | None = None
    weighs: tuple[datetime, int] | None = None
    limit_usd: int | None = None
    limit_reset: str | None = None  # daily, weekly, monthly; None: never
    is_disabled: bool = False
    has_counters: bool = True  # False: the list leaves the counters of the running periods out
    expires_at: datetime | None = None

    def name_at(self, instant: datetime) -> str:
        return self.renamed[1] if self.renamed and self.renamed[0] <= instant else self.name

    def weight_at(self, instant: datetime) -> int:
        if not self.since <= instant < self.until:
            return 0
        return self.weighs[1] if self.weighs and self.weighs[0] <= instant else self.weight

    @property
    def turns(self) -> list[datetime]:
        """When its share or its name changes."""
        return [self.since, self.until, *(change[0] for change in (self.renamed, self.weighs) if change)]


Part = tuple[SimulatedKey | None, str, str, Counts]  # whose (None: nobody's key), its name then, model, what it used


class KeyLedger:
    """An account's ledger, shared out among its keys. The parts of a day sum to the day, to the last digit.

    `unkeyed` weighs the work that no key did, as in the chatroom: its name is empty.
    """

    def __init__(self, ledger: Ledger, keys: Sequence[SimulatedKey], unkeyed: int) -> None:
        self._ledger, self._keys, self._unkeyed = ledger, tuple(keys), unkeyed
        self._turns = sorted({turn for key in keys for turn in key.turns})
        self._whole_day = lru_cache(maxsize=None)(lambda day: tuple(self._shared_out(day, midnight(day) + DAY)))
        self._whole_cost = lru_cache(maxsize=None)(lambda day: self._cost(self._whole_day(day)))

    def used(self, dimension: str, day: date, until: datetime | None = None) -> dict[tuple[str, str], Counts]:
        """What each member of a dimension of the analytics used on a day, by member and model."""
        found: dict[tuple[str, str], Counts] = defaultdict(Counts)
        for key, name, model, counts in self._parts(day, until):
            member = name if dimension == "api_key" else getattr(key or SimulatedKey(""), dimension)
            if member or dimension == "api_key":
                found[member, model] = found[member, model].plus(counts)
        return dict(found)

    def cost(self, key: SimulatedKey, first: date, until: datetime) -> int:
        """What a key cost from the day `first` on, nano-dollars."""
        days = [day for day in self._ledger.days if first <= day < until.date()]
        running = self._cost(self._parts(until.date(), until))
        return running.get(key, 0) + sum(self._whole_cost(day).get(key, 0) for day in days)

    def _parts(self, day: date, until: datetime | None) -> Sequence[Part]:
        end = midnight(day) + DAY
        return self._whole_day(day) if until is None or until >= end else [*self._shared_out(day, until)]

    def _shared_out(self, day: date, until: datetime) -> Iterator[Part]:
        begin = midnight(day)
        cuts = [begin, *(turn for turn in self._turns if begin < turn < until), until]
        for since, to in pairwise(cuts):
            whose: list[tuple[SimulatedKey | None, int]] = [(key, key.weight_at(since)) for key in self._keys]
            in_use = [(key, weight) for key, weight in (*whose, (None, self._unkeyed)) if weight] or [(None, 1)]
            whole = sum(weight for _, weight in in_use)
            for model, counts in self._ledger.used(day, since, to).items():
                done, given = 0, Counts()
                for key, weight in in_use:
                    done += weight
                    upto = counts.share(done, whole)
                    if any(part := upto.minus(given)):
                        yield key, key.name_at(since) if key else "", model, part
                    given = upto

    @staticmethod
    def _cost(parts: Sequence[Part]) -> dict[SimulatedKey | None, int]:
        found: dict[SimulatedKey | None, int] = defaultdict(int)
        for key, _, _, counts in parts:
            found[key] += counts.credits
        return dict(found)


def demo_keys(anchor: date) -> dict[str, tuple[SimulatedKey, ...]]:
    """By account: keys with a limit and without, one long unused, one renamed, and one that runs away lately."""

    def ago(days: int) -> datetime:
        return midnight(anchor - timedelta(days=days))

    return {
        "default": (
            SimulatedKey("web-app", 6, app="Acme Shop", limit_usd=400, limit_reset="monthly"),
            SimulatedKey("support-bot", 3, "Support", "Ben Example", limit_usd=40, limit_reset="weekly"),
            SimulatedKey("reports", 2, user="Ben Example", renamed=(ago(60), "nightly-reports")),
            SimulatedKey("ci-tests", 1, weighs=(ago(140), 0), has_counters=False),
        ),
        "agents": (
            SimulatedKey("research-agent", 5, "Research", "Cleo Example", limit_usd=1500, limit_reset="monthly"),
            SimulatedKey("batch-7", 1, "Research", "Dan Example", weighs=(ago(5), 8)),
            SimulatedKey("evaluation", 2, user="Cleo Example", app="Evals", limit_usd=150, limit_reset="weekly"),
            SimulatedKey("prototype", 2, user="Dan Example", weighs=(ago(200), 0), is_disabled=True),
        ),
        "hobby": (SimulatedKey("notebook", 4, limit_usd=60), SimulatedKey("telegram", 1, since=ago(150))),
    }
