"""The one world of each module: its models are compiled and its raw tables are made once, and emptied for each test."""

from collections.abc import Iterator

import pytest

from credits_pipeline_tests.models import World


@pytest.fixture(scope="module")
def kind() -> type[World]:
    """A module may have a kind of world of its own."""
    return World


@pytest.fixture(scope="module")
def _world(kind: type[World]) -> Iterator[World]:
    world = kind()
    yield world
    world.con.close()


@pytest.fixture
def world(_world: World) -> World:
    _world.con.execute("set threads = 1")
    _world.empty()
    return _world
