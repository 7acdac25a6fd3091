"""`make bench-forecast`: how accurate the forecast is, and what it costs, from the product's own tables.

    python benchmarks/forecast.py FOLDER [--libraries] [--curves FILE] [--picture FILE] [--no-scale]
    python benchmarks/forecast.py --keys

FOLDER holds tasks: `tasks.parquet` (task_id, dataset, series_id, origin, history_days, balance, known_days,
run_out_day), `history.parquet` (task_id, spend_date, spend) and, for rivals, `curves_<name>.parquet` (task_id,
day_ahead, probability). Every task becomes an account of a fresh warehouse: readings exactly at each midnight, the
first at the start of the task's first day, counters that move by the task's daily spend, credits that leave the task's
balance. The models are built and tested as in a daily run; 90 days of marts.runway_curve are written to --curves and
scored. Then the same with a third of the readings missing. Without a FOLDER only time and memory are measured.

Score: CRPS in days, the sum over the known days of (probability - happened)^2, divided by the days of cover that the
last 28 days suggest. The headline is the geometric mean over series of its ratio to a rival, averaged over data sets,
with a 90 % interval from resampling the series. Coverage: how often the run-out fell between the 10 % and the 90 %
point.

--libraries runs statsforecast's AutoETS on the same tasks, in an environment of its own that is made on first use.
Every build runs in a process of its own, so that its peak memory is its own.

--keys makes up 200 API keys that spend as people do on language models, lists them each night for 150 days and prints
how often their spend fell inside the 80 % interval, from marts.key_limits_accuracy.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
HORIZON = 90  # days of the curve that are scored
RATIO_FLOOR = 0.02  # added to both scores of a ratio, so that a perfect one does not decide it
# A counter holds just under 1e9 USD; the forecast is independent of scale, so larger tasks are scaled down.
MOST_USD = 9e8
# Days of history of a task, from … to.
AGES = {"<= 5": (0, 5), "6-10": (6, 10), "11-30": (11, 30), "31-90": (31, 90), "> 90": (91, 10_000)}
BINS = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.001)
STATSFORECAST = "statsforecast==2.1.1"
LIBRARIES = ROOT / ".venv" / "bench-libraries"
PREPARED = (
    "int_midnights", "stg_credits_snapshots", "stg_model_usage_days", "credits_readings", "daily_spend",
    "int_key_spend",
)  # fmt: skip
FORECAST_STEPS = (
    "int_series", "int_spend_history", "int_weekday_profile", "int_spend_levels", "int_forecast_backtest",
    "int_spend_forecast", "int_runway_position", "runway_curve",
)  # fmt: skip

LOAD_TASKS = """
with days as (
    select task_id, spend_date, cast(spend / scale as decimal(18, 9)) as spend
    from read_parquet($history) as history
    inner join scales using (task_id)
),

midnights as (
    select task_id, cast(spend_date as timestamp) + interval 1 day as observed_at,
        sum(spend) over (partition by task_id order by spend_date rows unbounded preceding) as usage
    from days
    union all
    select task_id, cast(min(spend_date) as timestamp), 0 from days group by task_id
)

insert into raw.credits_snapshots
select cast(task_id as varchar), cast(observed_at as date), observed_at,
    cast(max(usage) over (partition by task_id) + cast(balance / scale as decimal(18, 9)) as decimal(18, 9)),
    cast(usage as decimal(18, 9)), null, 'bench', 'import', null
from midnights
inner join read_parquet($tasks) as tasks using (task_id)
inner join scales using (task_id)
-- The newest reading stays: it says what the balance is.
qualify hash(task_id, observed_at) % 1000 >= $missing_permille
    or observed_at in (min(observed_at) over (partition by task_id), max(observed_at) over (partition by task_id))
"""

LOAD_MADE_UP = """
with days as (
    select 'account-' || account as account, day,
        -- A level of its own for each account, quiet weekends, noise; every third account has idle days.
        case when account % 3 = 0 and hash(account, day, 'idle') % 10 = 0 then 0
            else round(exp(account % 17 / 3.0 + hash(account, day) % 1000 / 700.0) * if(day % 7 < 2, 0.3, 1), 6)
        end as spend
    from range($accounts) as accounts (account), range($days) as days (day)
),

totals as (
    select account, day + 1 as day, sum(cast(spend as decimal(18, 9))) over (
        partition by account order by day rows unbounded preceding
    ) as usage
    from days
    union all
    select distinct account, 0, 0 from days
)

insert into raw.credits_snapshots
select account, date '2025-01-01' + cast(day as integer), timestamp '2025-01-01' + day * interval 1 day,
    cast(max(usage) over (partition by account) * 1.2 as decimal(18, 9)), cast(usage as decimal(18, 9)),
    null, 'bench', 'import', null
from totals
"""


KEYS, KEY_DAYS = 200, 150


def load_keys(con: "duckdb.DuckDBPyConnection") -> None:
    """Keys with monthly limits that nothing reaches, so that their spend is what they would have spent.

    As people's use of language models is (medians): active on two days of three with idle spells, coefficient of
    variation 1.4, lag-1 rank correlation 0.44, a quarter of the second halves more than double and as many under half.
    """
    dice = np.random.default_rng(0)
    shape = (KEYS, KEY_DAYS)
    jumps = (dice.random(shape) < 1 / 30) * dice.normal(0, 1, shape)
    level = dice.normal(0, 1.5, (KEYS, 1)) + (dice.normal(0, 0.1, shape) + jumps).cumsum(1)
    spend = np.exp(level + dice.normal(0, 1, shape) * dice.uniform(0.4, 1.2, (KEYS, 1)))
    luck, is_active = dice.random(shape), np.ones(shape, dtype=bool)
    for day in range(1, KEY_DAYS):
        is_active[:, day] = luck[:, day] < np.where(is_active[:, day - 1], 0.88, 0.25)
    usage = np.concatenate([np.zeros((KEYS, 1)), (spend * is_active).cumsum(1)], axis=1)
    con.execute(
        """
        insert into raw.credits_snapshots by name
        select 'bench' as account, date '2025-06-01' as snapshot_date, timestamp '2025-06-01' as observed_at,
            1e6 as total_credits, 0 as total_usage, 'bench' as run_id, 'import' as source
        """
    )
    con.execute(
        """
        insert into raw.api_keys by name
        select 'bench' as account, timestamp '2025-01-01 00:05' + number % $lists * interval 1 day as observed_at,
            'key-' || number // $lists as key_hash, key_hash as name, '' as label, 9e8 as limit_usd,
            9e8 - usage_usd as limit_remaining_usd, 'monthly' as limit_reset, false as has_byok_in_limit,
            usage_usd, false as is_disabled, 'bench' as run_id
        from (select unnest(range($keys * $lists)) as number, unnest($usage::decimal(18, 9)[]) as usage_usd)
        """,
        {"lists": KEY_DAYS + 1, "keys": KEYS, "usage": usage.round(9).ravel().tolist()},
    )


# ---------------------------------------------------------------- building, in a process of its own


def build(job: dict[str, Any]) -> None:
    """Load and build what the job says; print seconds and peak memory as JSON. Runs in a process of its own."""
    from credits_pipeline.sql_project import SqlProject
    from credits_pipeline.warehouse import Warehouse

    warehouse = Warehouse(Path(job["folder"]) / "warehouse.duckdb")
    is_alone = job["step"] == "curve"
    project = SqlProject.load(ROOT / "dbt_like_sql", {"forecast_horizon_days": HORIZON} if is_alone else {})
    if job["step"] == "load":
        with warehouse.writing("the benchmark") as con:
            load(con, job)
        print("{}")
        return
    if job["step"] == "prepare":  # everything that runway_curve is built from
        with warehouse.writing("the benchmark") as con:
            project.build(con, PREPARED)
        print("{}")
        return
    with warehouse.writing("the benchmark") as con:
        con.execute("set threads = 2")  # what the targets refer to
        started, started_cpu = time.perf_counter(), time.process_time()
        result = project.build(con, FORECAST_STEPS if is_alone else None)
        seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
        if result.blocking:
            raise SystemExit("\n".join(test.message for test in result.blocking))
        if job.get("curves"):
            con.execute(
                f"""copy (
                    select cast(account as bigint) as task_id, day_ahead, probability
                    from marts.runway_curve where day_ahead <= {HORIZON} order by all
                ) to '{job["curves"]}' (format parquet)"""
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": peak}))


def load(con: "duckdb.DuckDBPyConnection", job: dict[str, Any]) -> None:
    if job.get("keys"):
        load_keys(con)
        return
    if "accounts" in job:
        con.execute(LOAD_MADE_UP, {"accounts": job["accounts"], "days": job["days"]})
        return
    files = {name: str(Path(job["tasks"]) / f"{name}.parquet") for name in ("tasks", "history")}
    con.execute(
        """
        create temp table scales as
        select task_id, power(10, greatest(0, ceil(log10((sum(spend) + max(balance)) / $most)))) as scale
        from read_parquet($history) as history inner join read_parquet($tasks) as tasks using (task_id)
        group by task_id
        """,
        {**files, "most": MOST_USD},
    )
    con.execute(LOAD_TASKS, {**files, "missing_permille": job["missing_permille"]})


def measured(folder: Path, step: str, **job: Any) -> dict[str, float]:
    """What `build` printed, run in a fresh process on the warehouse in `folder`."""
    command = [sys.executable, __file__, "--job", json.dumps({"folder": str(folder), "step": step, **job})]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the {step} step failed: see above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def curves_of(tasks: Path, curves: Path, missing_permille: int) -> dict[str, float]:
    """Build a warehouse of the tasks and write its curves; seconds and peak memory of the build."""
    with tempfile.TemporaryDirectory() as folder:
        measured(Path(folder), "load", tasks=str(tasks), missing_permille=missing_permille)
        return measured(Path(folder), "all", curves=str(curves))


# ---------------------------------------------------------------- scoring


def matrix(curves: "pd.DataFrame", task_ids: "pd.Series") -> tuple[np.ndarray, int]:
    """Probabilities by task and day ahead; how many tasks have no full curve (they count as "never runs out")."""
    wide = curves.pivot(index="task_id", columns="day_ahead", values="probability")
    wide = wide.reindex(index=task_ids, columns=range(1, HORIZON + 1))
    missing = int(wide.isna().any(axis=1).sum())
    return np.clip(np.maximum.accumulate(wide.fillna(0).to_numpy(float), axis=1), 0, 1), missing


def per_task(probability: np.ndarray, tasks: "pd.DataFrame", cover: np.ndarray) -> "pd.DataFrame":
    import pandas as pd

    days = np.arange(1, HORIZON + 1)
    run_out = tasks.run_out_day.astype("float").fillna(1e9).to_numpy()
    known = tasks.known_days.to_numpy()
    happened = (run_out[:, None] <= days).astype(float)
    out = pd.DataFrame(
        {"dataset": tasks.dataset.to_numpy(), "series": (tasks.dataset + "|" + tasks.series_id).to_numpy()}
    )
    out["crps"] = ((probability - happened) ** 2 * (days <= known[:, None])).sum(1) / cover

    reached = probability >= 0.5 - 1e-9
    median = np.where(reached.any(1), reached.argmax(1) + 1, HORIZON + 1)
    out["p50_error_days"] = np.abs(np.minimum(run_out, known + 1) - np.minimum(median, known + 1))

    # The probability that the run-out fell where it did, as an interval: the curve has steps.
    padded = np.concatenate([np.zeros((len(probability), 1)), probability], axis=1)
    row, event = np.arange(len(probability)), run_out <= known
    at = np.where(event, run_out, 1).astype(int)
    low = np.where(event, padded[row, at - 1], padded[row, known])
    high = np.where(event, padded[row, at], 1.0)
    inside = np.clip(np.minimum(high, 0.9) - np.maximum(low, 0.1), 0, None) / np.maximum(high - low, 1e-9)
    out["coverage_80"] = np.where(high - low > 1e-9, inside, (low > 0.1) & (low < 0.9))
    for day in (7, 30):
        error = (probability[:, day - 1] - happened[:, day - 1]) ** 2
        out[f"brier_{day}"] = np.where(known >= day, error, np.nan)
    return out


def ratio(ours: "pd.DataFrame", theirs: "pd.DataFrame") -> tuple[float, float, float, dict[str, float]]:
    """CRPS ratio, its 90 % interval, and the ratio of each data set."""
    both = ours[["dataset", "series"]].assign(ours=ours.crps, theirs=theirs.crps)
    means = both.groupby(["dataset", "series"]).mean()
    logs = np.log((means.ours + RATIO_FLOOR) / (means.theirs + RATIO_FLOOR)).groupby("dataset")
    dice = np.random.default_rng(0)
    sets = [values.to_numpy() for _, values in logs]
    again = [np.mean([dice.choice(values, len(values)).mean() for values in sets]) for _ in range(500)]
    low, high = np.exp(np.quantile(again, [0.05, 0.95]))
    return float(np.exp(logs.mean().mean())), float(low), float(high), dict(np.exp(logs.mean()))


class Scores:
    """The tasks of a folder, and how given curves score on them."""

    def __init__(self, folder: Path) -> None:
        import pandas as pd

        self.folder = folder
        self.tasks = pd.read_parquet(folder / "tasks.parquet")
        self.history = pd.read_parquet(folder / "history.parquet").sort_values(["task_id", "spend_date"])
        recent = self.history.groupby("task_id").tail(28).groupby("task_id").spend.mean()
        recent = np.maximum(recent.reindex(self.tasks.task_id).to_numpy(), 1e-12)
        self.cover = np.clip(self.tasks.balance.to_numpy() / recent, 1, HORIZON)
        self.is_real = ~self.tasks.dataset.str.startswith("synthetic").to_numpy()

    def probability(self, curves: Path) -> np.ndarray:
        import pandas as pd

        probability, missing = matrix(pd.read_parquet(curves), self.tasks.task_id)
        if missing:
            print(f"  {curves.name}: {missing} tasks without a full curve, counted as 'never runs out'")
        return probability

    def of(self, curves: Path) -> "pd.DataFrame":
        return per_task(self.probability(curves), self.tasks, self.cover)

    def kinds(self) -> "pd.Series":
        """What kind of account each task's history shows; the first that fits, in this order."""

        def kind(spend: "pd.Series") -> str:
            mean, last_week = spend.mean(), spend.tail(7).mean()
            before = spend.iloc[:-7].mean() if len(spend) > 7 else mean
            if last_week > 3 * before:
                return "starting"
            if last_week < before / 3:
                return "ending"
            if (spend > 0).mean() < 0.5:
                return "intermittent"
            return "steady" if spend.var(ddof=1) <= 0.3 * mean * mean else "bursty"

        return self.history.groupby("task_id").spend.apply(kind).reindex(self.tasks.task_id)

    def print_coverage(self, ours: "pd.DataFrame") -> None:
        """Coverage of the 80 % interval by length of history and by kind of account, real series only."""
        days, kinds = self.tasks.history_days.to_numpy(), self.kinds().to_numpy()
        groups = {f"{name} days": (days >= low) & (days <= high) for name, (low, high) in AGES.items()}
        groups |= {name: kinds == name for name in ("steady", "bursty", "intermittent", "starting", "ending")}
        parts = []
        for name, chosen in groups.items():
            found = ours.coverage_80[chosen & self.is_real]
            parts.append(f"{name} {found.mean():.2f} (n={len(found)})")
        print("80 % interval covers, by history and kind: " + ", ".join(parts))

    def reliability(self, probability: np.ndarray) -> list[dict[str, float]]:
        """P(gone within 7, 14, 30 days), said against seen, by bins of a tenth; real series only."""
        known, run_out = self.tasks.known_days.to_numpy(), self.tasks.run_out_day.fillna(1e9).to_numpy()
        points = []
        for day in (7, 14, 30):
            chosen = self.is_real & (known >= day)
            said, seen = probability[chosen, day - 1], (run_out <= day)[chosen]
            at = np.digitize(said, BINS) - 1
            for one in (at == number for number in range(len(BINS) - 1)):
                if one.any():
                    point = {"said": said[one].mean(), "seen": seen[one].mean(), "tasks": int(one.sum())}
                    points.append({"days": day, **point})
        return points

    def report(self, ours: "pd.DataFrame", extra: dict[str, Path]) -> None:
        real = ours[self.is_real]
        means = real.groupby("dataset")[["p50_error_days", "coverage_80", "brier_7", "brier_30"]].mean()
        print(f"\n{len(ours)} tasks, {len(real)} of real series\n{means.round(3).to_string()}")
        print("mean over data sets:", {key: round(float(value), 3) for key, value in means.mean().items()})
        short = real[(self.tasks.history_days <= 10).to_numpy()[self.is_real]]
        coverage = means.coverage_80
        print(f"80 % interval covers: all {coverage.mean():.3f} (0.76 to 0.84 is the aim), ", end="")
        print(f"data sets {coverage.min():.3f} to {coverage.max():.3f} (0.70 to 0.90), ", end="")
        by_set = short.groupby("dataset").coverage_80.mean()
        print(f"10 days of history or less {by_set.mean():.3f} (0.70 to 0.90)")
        self.print_coverage(ours)
        rivals = {path.stem.removeprefix("curves_"): path for path in sorted(self.folder.glob("curves_*.parquet"))}
        for name, path in {**rivals, **extra}.items():
            theirs = self.of(path)
            for kind, chosen in (("real", self.is_real), ("synthetic", ~self.is_real)):
                if chosen.any():
                    middle, low, high, by = ratio(ours[chosen], theirs[chosen])
                    sets = "  ".join(f"{key} {value:.2f}" for key, value in by.items())
                    print(f"CRPS ratio to {name:16s} {kind:9s} {middle:.3f} [{low:.3f}, {high:.3f}]  {sets}")


# ---------------------------------------------------------------- the rival, in its own environment

AUTO_ETS = """
import sys, warnings
import duckdb, numpy as np
from statsforecast.models import AutoETS

warnings.filterwarnings("ignore")
tasks, history, target = sys.argv[1:]
con = duckdb.connect()
found = con.execute(
    "select task_id, any_value(balance), list(spend order by spend_date) from read_parquet(?) as history "
    "join read_parquet(?) as tasks using (task_id) group by task_id order by task_id", [history, tasks]
).fetchall()
ids, days, probabilities = [], [], []
for number, (task, balance, spend) in enumerate(found):
    y = np.asarray(spend, dtype=float)
    scale = max(y.mean(), 1e-12)
    try:
        model = AutoETS(season_length=7 if len(y) >= 14 else 1)
        paths = model.simulate(h=90, n_paths=500, y=y / scale, seed=0)
    except Exception:  # too short or too flat for it: repeat the mean
        paths = np.full((1, 90), 1.0)
    sums = np.cumsum(np.clip(np.nan_to_num(paths, nan=1.0), 0, None), axis=1)
    ids += [task] * 90
    days += range(1, 91)
    probabilities += list((sums >= balance / scale).mean(axis=0))
    if sys.stderr.isatty():
        print(f"\\rAutoETS: {number + 1} of {len(found)} tasks", end="", file=sys.stderr)
con.execute("create table curves (task_id bigint, day_ahead smallint, probability double)")
con.execute("insert into curves select unnest(?), unnest(?), unnest(?)", [ids, days, [float(p) for p in probabilities]])
con.execute("copy curves to '" + target + "' (format parquet)")
"""


def run_auto_ets(tasks: Path, curves: Path) -> None:
    python = LIBRARIES / "bin" / "python"
    if not python.exists():
        print(
            f"making an environment for {STATSFORECAST} in {LIBRARIES.relative_to(ROOT)} (half a gigabyte)",
            flush=True,
        )
        venv.create(LIBRARIES, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", STATSFORECAST, "duckdb"], check=True)
    started = time.perf_counter()
    files = [str(tasks / "tasks.parquet"), str(tasks / "history.parquet"), str(curves)]
    subprocess.run([python, "-c", AUTO_ETS, *files], check=True)
    print(f"\nAutoETS took {time.perf_counter() - started:.0f} s", flush=True)


# ---------------------------------------------------------------- what is printed


def draw_reliability(points: list[dict[str, float]], picture: Path) -> None:
    """A reliability diagram: the nearer to the diagonal, the truer the probabilities."""
    import vl_convert

    axis = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": {"format": "%", "tickCount": 5}}
    chart = {
        "width": 460,
        "height": 460,
        "background": "white",
        "config": {"font": "Liberation Sans, Arial, sans-serif", "axis": {"labelFontSize": 13, "titleFontSize": 13}},
        "layer": [
            {
                "data": {"values": [{"said": 0, "seen": 0}, {"said": 1, "seen": 1}]},
                "mark": {"type": "line", "color": "#8c959f", "strokeDash": [4, 4]},
                "encoding": {"x": {"field": "said", **axis}, "y": {"field": "seen", **axis}},
            },
            {
                "data": {"values": [{**point, "within": f"{point['days']} days"} for point in points]},
                "mark": {"type": "line", "point": {"size": 55}},
                "encoding": {
                    "x": {"field": "said", "title": "probability given that credits are gone in time", **axis},
                    "y": {"field": "seen", "title": "share of tasks in which they were", **axis},
                    "color": {
                        "field": "within", "sort": ["7 days", "14 days", "30 days"], "title": "gone within",
                        "scale": {"range": ["#b93815", "#0067a8", "#00704f"]},
                    },
                },
            },
        ],
    }  # fmt: skip
    picture.write_bytes(vl_convert.vegalite_to_png(chart, scale=1.5))


def score(tasks: Path, curves: Path, libraries: bool, picture: Path | None) -> None:
    scores = Scores(tasks)
    print("building a warehouse of the tasks, as users do …", flush=True)
    cost = curves_of(tasks, curves, 0)
    print(f"all models and their tests: {cost['seconds']:.1f} s, {cost['peak_mb']:.0f} MB at most; curves in {curves}")
    ours = scores.of(curves)
    points = scores.reliability(scores.probability(curves))
    for day in (7, 14, 30):
        cells = [f"{p['said']:.2f}>{p['seen']:.2f} ({p['tasks']})" for p in points if p["days"] == day]
        print(f"gone within {day:2d} days, said>seen (tasks): " + "  ".join(cells))
    if picture:
        draw_reliability(points, picture)
    with tempfile.TemporaryDirectory() as folder:
        extra = {}
        if libraries:
            extra["autoets, this run"] = Path(folder) / "autoets.parquet"
            run_auto_ets(tasks, extra["autoets, this run"])
        scores.report(ours, extra)
        gappy = Path(folder) / "gappy.parquet"
        print("\nthe same with a third of the readings missing …", flush=True)
        curves_of(tasks, gappy, 333)
        middle, low, high, _ = ratio(scores.of(gappy)[scores.is_real], ours[scores.is_real])
        print(f"CRPS {100 * (middle - 1):+.1f} % [{100 * (low - 1):+.1f}, {100 * (high - 1):+.1f}] (+2 % is the limit)")


def scale() -> None:
    print("\ntime and peak memory, 2 threads (the process included)")
    for accounts, days in ((1, 365), (1000, 365), (10_000, 180)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            measured(folder, "load", accounts=accounts, days=days)
            measured(folder, "prepare")
            curve = measured(folder, "curve")
            whole = measured(folder, "all")
        for what, cost in (
            (f"runway_curve alone, {HORIZON} days ahead", curve),
            ("all models, replay and tests", whole),
        ):
            words = f"{accounts:6,d} accounts × {days} days, {what}:"
            print(
                f"  {words:62s} {cost['seconds']:7.2f} s ({cost['cpu']:.2f} s of CPU)  {cost['peak_mb']:6.0f} MB",
                flush=True,
            )


def keys() -> None:
    """Coverage of the 80 % interval of made-up keys' spend, and said against seen for limits worth the horizon."""
    import duckdb

    with tempfile.TemporaryDirectory() as name:
        measured(Path(name), "load", keys=True)
        measured(Path(name), "all")
        con = duckdb.connect(str(Path(name) / "warehouse.duckdb"), read_only=True)
        for horizon, replays, coverage in con.execute(
            "select horizon_days, sum(replays), sum(coverage_80 * replays) / sum(replays)"
            " from marts.key_limits_accuracy group by horizon_days order by horizon_days"
        ).fetchall():
            print(f"{KEYS} keys, {horizon} days ahead: 80 % interval covers {coverage:.3f} of {replays} replays")
        for _, said, seen, replays in con.execute(
            "select least(floor(probability * 5), 4) as bin, avg(probability),"
            " avg(if(spent_usd >= virtual_balance_usd, 1, 0)), count(*)"
            " from intermediate.int_forecast_replays inner join intermediate.int_series using (series)"
            " where key_hash is not null group by bin order by bin"
        ).fetchall():
            print(f"limit reached within the horizon: said {said:.2f}, seen {seen:.2f} ({replays} replays)")
        con.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="", help="the tasks; without it only time and memory are measured")
    parser.add_argument("--curves", type=Path, help="where to write the curves (Parquet); kept for other scorers")
    parser.add_argument("--libraries", action="store_true", help="run AutoETS on the same tasks as well")
    parser.add_argument("--no-scale", action="store_true", help="leave time and memory of made-up accounts out")
    parser.add_argument("--picture", type=Path, help="where to draw said against seen (PNG)")
    parser.add_argument("--keys", action="store_true", help="only how sure the forecast of made-up keys is")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.keys:
        keys()
        return
    if args.job:
        build(json.loads(args.job))
        return
    if args.folder:
        curves = args.curves or Path(tempfile.gettempdir()) / "runway_curves.parquet"
        score(Path(args.folder), curves.resolve(), args.libraries, args.picture)
    if not args.no_scale:
        scale()


if __name__ == "__main__":
    main()
