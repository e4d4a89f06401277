"""Fixtures that every test may use."""

import gc
import resource
import shutil
import signal
import subprocess
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from meterproof_local.broker import LocalBroker
from tests.one_broker import BrokerElsewhere

# How fast a busy machine is says nothing about a rule, and a failure must be a change's: the same examples every time.
# `--hypothesis-profile=search` looks for new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")


RULES_ALONE = (Path(__file__).parent / "unit", Path(__file__).parent / "contract")
"""Tests of rules, which nothing but themselves can fail: none of them is tried again."""

OPEN_FILES = 16_384
"""Enough for a process to which all tests of ClickHouse come: each engine leaves a dozen open behind it, for ever."""


def pytest_configure() -> None:
    """Let this process have as many files open as it may and needs: who it shares tests with is chance.

    And let it and its children hear Ctrl-C: what a shell starts in the background inherits that nobody does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage in what is collected, neither meanwhile nor later: all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a test with real processes or engines try a second time, and say so: they do things in their own time.

    `./dev test` lists each such test under RERUN: it is a fault to be mended, of the test or of what it tests.
    `--force-reruns=0` tries nothing again. A test of its own opinion states it with `pytest.mark.flaky`.
    """
    for item in items:
        of_rules_alone = any(folder in item.path.parents for folder in RULES_ALONE)
        if not of_rules_alone and not item.get_closest_marker("flaky"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """One real Kafka for the whole run: `broker.bootstrap` is its address.

    Share it, also with tests that run at the same time: give your topics and groups the `topic_prefix`. A test that
    kills or restarts a broker makes its own.
    """
    of_all: str | None = getattr(request.config, "workerinput", {}).get("broker")
    if of_all is not None:
        yield BrokerElsewhere(of_all)
        return
    with LocalBroker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(autouse=True)
def log_as_at_first() -> Iterator[None]:
    """Undo what a command within the test's own process has set up: its log leaves out what others look for."""
    yield
    structlog.reset_defaults()


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
