"""The shards of a lake worked on by other processes: a Dask scheduler and workers, with real certificates."""

import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from credits_pipeline import config
from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline_tests.cluster.conftest import green
from credits_pipeline_tests.cluster.test_lake import accounts, assert_same, marts, two_days_in_a_file
from credits_pipeline_tests.conftest import TODAY
from credits_pipeline_tests.defs.test_daily_run import failures
from credits_pipeline_tests.receiver import Receiver


def test_two_workers_read_bill_build_and_publish_what_one_file_has(lake, simulate, run_job, days_go_by, monkeypatch):
    """Every table is equal, alerts go out once, and no key was in a task, a log or a file of the cluster."""
    api = simulate(*accounts())
    with Receiver() as receiver:
        monkeypatch.setenv("CREDITS_ALERT_URLS", receiver.url("/channel"))
        two_days_in_a_file(run_job, days_go_by)
        wanted, alerts = marts(config.current().published_path), sorted(receiver.titles)
        assert alerts
        receiver.messages.clear()
        lake.use(shards=4)
        days_go_by(-1)
        with lake.start_workers(2) as cluster:
            lake.use(shards=4, cluster=cluster.address, **cluster.environ)
            two_days_in_a_file(run_job, days_go_by)
            log, left = cluster.logs(), [path.read_bytes() for path in cluster.folder.rglob("*") if path.is_file()]
        assert_same(marts(lake.published), wanted)
        assert sorted(receiver.titles) == alerts
    assert not any(b"sk-or-v1" in content for content in [log.encode(), *left])
    assert api.requests
    page = (lake.published.parent / "report.html").read_text()
    assert all(f">{name}<" in page or name in page for name in ("default", "zurich_eu"))


def test_a_worker_killed_in_mid_build_has_its_shard_done_again_and_the_run_is_green(lake, simulate, run_job, tmp_path):
    simulate(*accounts(4))
    lake.use(shards=4)
    fate = tmp_path / "fate"
    fate.touch()
    with lake.start_workers(2, TEST_FATE=str(fate)) as cluster:
        lake.use(shards=4, cluster=cluster.address, **cluster.environ)
        green(run_job("daily_credits"))
        assert not fate.exists()
        assert [worker.poll() for worker in cluster.workers].count(-9) == 1
    assert lake.ask("select count(*), count(distinct account) from marts.credits_readings") == [(4, 4)]


def test_a_killed_run_leaves_the_old_generation_and_the_next_one_heals(lake, simulate, run_job, days_go_by, tmp_path):
    simulate(*accounts(4))
    lake.use(shards=2)
    green(run_job("daily_credits"))
    before = marts(lake.published)
    days_go_by(1)
    fate = tmp_path / "fate"
    fate.touch()
    lake.use(shards=2, TEST_FATE=str(fate))
    code = (
        "from credits_pipeline_tests.cluster import worker; worker.dask_setup(None);"
        "from credits_pipeline.__main__ import main; main()"
    )
    killed = subprocess.run([sys.executable, "-c", code, "run"], cwd=PROJECT_ROOT, capture_output=True, timeout=300)
    assert killed.returncode == -9, killed.stderr
    assert_same(marts(lake.published), before)
    lake.use(shards=2)
    green(run_job("daily_credits"))
    assert lake.ask("select max(observed_at)::date from marts.credits_readings") == [(TODAY + timedelta(days=1),)]


def test_a_worker_with_another_program_is_refused_in_a_sentence_that_names_both(lake, simulate, run_job, tmp_path):
    simulate(*accounts(2))
    lake.use(shards=2)
    other = tmp_path / "other"
    for folder in ("credits_pipeline", "credits_pipeline_tests", "dbt_like_sql"):
        shutil.copytree(PROJECT_ROOT / folder, other / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "credits_pipeline" / "clock.py").open("a") as changed:
        changed.write("# a release that differs\n")
    import distributed

    packages = Path(distributed.__file__).parent.parent
    with lake.start_workers(1, PYTHONPATH=f"{other}:{packages}") as cluster:
        lake.use(shards=2, cluster=cluster.address, **cluster.environ)
        result = run_job("daily_credits")
        said = " ".join(failures(result).values())
        assert "install the same release on every host" in said
        assert said.count("credits-pipeline 0.1.0 (") >= 2
    assert not lake.published.exists()


def test_a_scheduler_that_is_away_or_has_no_workers_is_a_sentence(lake, simulate, run_job, monkeypatch):
    from credits_pipeline.warehouse import cluster as ours

    monkeypatch.setattr(ours, "WAIT_FOR_WORKERS_S", 3)
    simulate(*accounts(1))
    lake.use(shards=1, cluster="tcp://127.0.0.1:9")
    assert "no scheduler answers at tcp://127.0.0.1:9" in " ".join(failures(run_job("daily_credits")).values())
    with lake.start_workers(0) as cluster:
        lake.use(shards=1, cluster=cluster.address, **cluster.environ)
        assert "has no workers" in " ".join(failures(run_job("daily_credits")).values())
