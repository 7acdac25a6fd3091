"""The accounts that pages are tested on, built once."""

import pytest

from credits_pipeline_tests.models import World
from credits_pipeline_tests.report.people import everybody


@pytest.fixture(scope="session")
def people() -> World:
    return everybody()
