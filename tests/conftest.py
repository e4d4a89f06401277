"""Fixtures that every test may use."""

import gc
import shutil
import subprocess
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from meterproof_local.broker import LocalBroker

# How fast a busy machine is says nothing about a rule, and a failure must be a change's: the same examples every time.
# `--hypothesis-profile=search` looks for new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")


def pytest_collection_finish() -> None:
    """Leave all that was collected alone: looking through it for garbage, over and over, is a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a test with real processes try a second time, and say so: on a busy machine they may outlast its patience.

    `./dev test` lists each such test under RERUN: it is a fault to be mended, of the test or of what it tests.
    `--force-reruns=0` tries nothing again. A test of its own opinion states it with `pytest.mark.flaky`.
    """
    for item in items:
        if item.get_closest_marker("broker") and not item.get_closest_marker("flaky"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """One real Kafka for the whole run: `broker.bootstrap` is its address.

    Share it: give your topics and groups the `topic_prefix`. A test that kills or restarts a broker makes its own.
    """
    with LocalBroker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics and groups that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture
def docker() -> None:
    """Skip, visibly, where no Docker answers."""
    program = shutil.which("docker")
    if program is None or subprocess.run([program, "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("Docker does not answer on this machine")
