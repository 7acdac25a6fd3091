"""The settings of a lake: each wrong value is one clear line. Without any: defs/test_definitions.py."""

import pytest

from credits_pipeline import config
from credits_pipeline.config import LakeSettings
from credits_pipeline.warehouse import Tables, WarehouseError, open_warehouse

LAKE = {"CREDITS_LAKE": "postgres:service=credits", "CREDITS_LAKE_DATA": "s3://bucket/credits/", "CREDITS_SHARDS": "16"}


def test_a_lake_is_configured_by_four_variables():
    settings = config.load(LAKE)
    assert settings.lake == LakeSettings("service=credits", "s3://bucket/credits", 16, "")
    settings = config.load({**LAKE, "CREDITS_LAKE_DATA": "/srv/credits", "CREDITS_CLUSTER": "tls://scheduler:8786"})
    assert settings.lake == LakeSettings("service=credits", "/srv/credits", 16, "tls://scheduler:8786")
    assert settings.problems == ()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"CREDITS_LAKE": "service=credits"}, "CREDITS_LAKE must be postgres:service=NAME"),
        ({"CREDITS_LAKE": "postgres:host=db password=s3cret"}, "with no password in it"),
        *(({"CREDITS_LAKE_DATA": data}, "CREDITS_LAKE_DATA must be a folder") for data in ("", "gs://bucket")),
        *(({"CREDITS_SHARDS": shards}, "CREDITS_SHARDS must be the number") for shards in ("", "0", "many")),
        *(({"CREDITS_CLUSTER": address}, "must be tls://host:port") for address in ("tcp://10.0.0.1:8786", "host:1")),
        ({"CREDITS_LAKE": "", "CREDITS_CLUSTER": "tls://scheduler:8786"}, "CREDITS_CLUSTER needs CREDITS_LAKE"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable_and_no_secret(wrong, told):
    [problem] = config.load({**LAKE, **wrong}).problems
    assert told in problem
    assert "s3cret" not in problem
    assert "\n" not in problem


def test_a_lake_without_its_packages_is_a_sentence_that_says_what_to_install(tmp_path):
    settings = config.load({**LAKE, "CREDITS_DATA_DIR": str(tmp_path), "CREDITS_LAKE_DATA": str(tmp_path)})
    with pytest.raises(WarehouseError, match="run `make cluster`"):
        open_warehouse(settings).each(Tables.read_at)
