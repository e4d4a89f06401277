"""Fixtures that every test may use."""

import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from meterproof_local.broker import LocalBroker

# How fast a busy machine is says nothing about a rule.
settings.register_profile("meterproof", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("meterproof")


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
