"""The accounts that pages are tested on, built once; and the browser that shows them."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from credits_pipeline_tests import ui
from credits_pipeline_tests.models import World
from credits_pipeline_tests.report.people import everybody


@pytest.fixture(scope="session")
def people() -> World:
    return everybody()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with ui.chromium() as started:
        yield started
