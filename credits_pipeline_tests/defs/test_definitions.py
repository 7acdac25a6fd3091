"""The definitions: they load anywhere, touch nothing, and everything in them is worth opening in the UI."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import pytest
import yaml

from credits_pipeline import config, launch
from credits_pipeline.defs import partitions
from credits_pipeline.defs.assets import sql_models
from credits_pipeline.sql_project import SqlProject
from credits_pipeline_tests.defs.test_daily_run import failures, published, spender

# Refuses whatever loading must not do, wherever it is tried from.
WATCHED_IMPORT = """
import sys

def watch(event, arguments):
    if event == "socket.connect" or (event == "open" and str(arguments[0]).endswith((".duckdb", ".wal"))):
        raise SystemExit(f"loading did {event} {arguments}")

sys.addaudithook(watch)
import credits_pipeline.definitions
print(len(list(credits_pipeline.definitions.defs.resolve_all_asset_specs())))
heavy = {"pandas", "pyarrow", "altair", "vl_convert", "apprise", "httpx", "duckdb", "sqlalchemy", "alembic"}
of_a_lake = {"dask", "distributed", "psycopg2", *(f"credits_pipeline.warehouse.{name}" for name in ("lake", "cluster"))}
loaded = (heavy | of_a_lake) & set(sys.modules)
sys.exit(f"imported in vain: {loaded}" if loaded else 0)
"""


SPECS = Path(__file__).parents[1] / "fixtures" / "definitions.txt"


def pinned() -> str:
    """All that hangs on names: the assets and how they hang together, jobs, schedules and sensors."""
    from credits_pipeline.definitions import defs

    repository = defs.get_repository_def()
    graph = repository.asset_graph
    assets = {
        spec.key.to_user_string(): {
            "group": spec.group_name,
            "kinds": sorted(spec.kinds),
            "owners": sorted(spec.owners),
            "tags": {name: tag for name, tag in sorted(spec.tags.items()) if "/kind/" not in name},
            "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
            "checks": sorted(key.name for key in graph.get_check_keys_for_assets({spec.key})),
            "metadata": sorted(spec.metadata),
            "is_partitioned": spec.partitions_def is not None,
        }
        for spec in sorted(specs(), key=lambda spec: spec.key)
    }
    jobs = {
        job.name: {
            "without": sorted(assets.keys() - {k.to_user_string() for k in job.asset_layer.executable_asset_keys})
        }
        for job in repository.get_all_jobs()
        if not job.name.startswith("__")
    }
    schedules = {s.name: [s.cron_schedule, s.default_status.value] for s in repository.schedule_defs}
    sensors = {s.name: s.default_status.value for s in repository.sensor_defs}
    told = {"asset": assets, "job": jobs, "schedule": schedules, "sensor": sensors}
    return "".join(f"{kind} {name}: {json.dumps(of[name])}\n" for kind, of in told.items() for name in sorted(of))


def test_nothing_of_what_the_ui_shows_changes_unseen():
    """If the change was meant: python -m credits_pipeline_tests.defs.test_definitions"""
    assert pinned() == SPECS.read_text(encoding="utf-8")


def specs() -> list[dg.AssetSpec]:
    from credits_pipeline.definitions import defs

    return list(defs.resolve_all_asset_specs())


EVERY_SETTING_WRONG = {
    "CREDITS_START_DATE": "soon", "CREDITS_SNAPSHOT_CRON": "every night", "CREDITS_ALERT_DAYS": "-1",
    "OPENROUTER_BASE_URL": "https://opentouter.ai/api/v1", "OPENROUTER_API_KEY": " ",
}  # fmt: skip


@pytest.mark.parametrize("settings", [{}, EVERY_SETTING_WRONG], ids=["no settings", "every setting wrong"])
def test_loading_needs_no_key_reads_no_network_and_no_database_and_nothing_of_a_lake(settings, tmp_path):
    env = {**os.environ, **settings, "CREDITS_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCHED_IMPORT], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 20
    assert not (tmp_path / "data").exists()


def test_every_asset_says_what_it_means_and_every_column_too():
    for spec in specs():
        assert len(spec.description or "") > 60, spec.key
        if columns := spec.metadata.get("dagster/column_schema"):
            assert columns.columns, spec.key
            assert all(column.description for column in columns.columns), spec.key


def test_every_job_is_known_as_ours_where_projects_share_a_history():
    from credits_pipeline.definitions import defs

    named = {job.name for job in defs.get_repository_def().get_all_jobs()}
    assert {name for name in named if not name.startswith("__")} == launch.instance.JOBS


def test_dg_and_workspace_yaml_lead_to_the_same_definitions():
    text = (config.PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dg_project = tomllib.loads(text)["tool"]["dg"]["project"]
    (location,) = yaml.safe_load((config.PROJECT_ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    assert location["python_module"]["module_name"] == dg_project["code_location_target_module"]
    assert location["python_module"]["location_name"] == dg_project["code_location_name"]


def test_partitions_are_the_days_that_somebody_can_still_ask_for(now):
    days = partitions.daily_partitions.get_partition_keys(current_time=now.now)
    assert (days[0], days[-1], len(days)) == ("2025-06-17", "2026-06-17", 366)


def materialize(
    instance: dg.DagsterInstance, selection: list[str], project: SqlProject | None = None
) -> dg.ExecuteInProcessResult:
    """Build some models on their own, as a person does in the UI."""
    from credits_pipeline import definitions

    models = sql_models.sql_models(project or definitions.project)
    resources = {"warehouse": definitions.warehouse}
    job = dg.Definitions(assets=[models], resources=resources).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(name) for name in selection], raise_on_error=False
    )


def test_a_failing_blocking_test_changes_nothing_and_names_itself_and_the_rows(simulate, run_job, instance, tmp_path):
    simulate(spender())
    run_job("daily_credits")
    before = published("select * from marts.daily_spend order by all")
    shutil.copytree(sql_models.PROJECT_DIR, tmp_path / "project")
    (tmp_path / "project" / "tests" / "nobody_spends.sql").write_text(
        "-- Nobody spends anything.\nselect account, spend_usd from {{ ref('daily_spend') }} where spend_usd > 0\n",
        encoding="utf-8",
    )
    broken = SqlProject.load(tmp_path / "project")
    result = materialize(instance, list(broken.models), broken)
    assert not result.success
    message = failures(result)["sql_models"]
    assert "nobody_spends" in message
    assert "default" in message
    assert list(result.get_asset_materialization_events()) == []
    failed = [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed == ["nobody_spends"]
    assert published("select * from marts.daily_spend order by all") == before


def test_an_asset_check_can_be_run_without_building_its_model(simulate, run_job, instance):
    from credits_pipeline.definitions import defs

    simulate(spender())
    run_job("daily_credits")
    check = dg.AssetCheckKey(dg.AssetKey("daily_spend"), "daily_spend_sums_to_the_counter")
    job = dg.define_asset_job("one_check", selection=dg.AssetSelection.checks(check))
    only = dg.Definitions(assets=defs.assets, resources=defs.resources, jobs=[job])
    result = only.resolve_job_def("one_check").execute_in_process(instance=instance)
    assert [c.check_name for c in result.get_asset_check_evaluations()] == ["daily_spend_sums_to_the_counter"]
    assert list(result.get_asset_materialization_events()) == []


def test_what_cannot_be_shown_of_a_table_costs_neither_the_table_nor_its_checks(simulate, run_job, instance, tmp_path):
    simulate(spender())
    run_job("daily_credits")
    shutil.copytree(sql_models.PROJECT_DIR, tmp_path / "project")
    yml = tmp_path / "project" / "models" / "marts" / "daily_spend.yml"
    text = yml.read_text(encoding="utf-8")
    yml.write_text(re.sub("plots:.*", "plots:\n          broken: \"error('an overflow')\"", text), encoding="utf-8")
    result = materialize(instance, ["daily_spend"], SqlProject.load(tmp_path / "project"))
    assert result.success
    (event,) = result.get_asset_materialization_events()
    shown = event.materialization.metadata
    assert "an overflow" in str(shown["plots"].value)
    assert "| account |" in str(shown["preview"].value)
    assert all(check.passed for check in result.get_asset_check_evaluations())


def test_readings_count_as_fresh_by_the_schedule_that_takes_them():
    [policy] = [spec.freshness_policy for spec in specs() if spec.freshness_policy]
    assert policy.fail_window.to_timedelta() == config.current().stale_after


if __name__ == "__main__":
    SPECS.write_text(pinned(), encoding="utf-8")
