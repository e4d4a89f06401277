"""A pytest plugin for `./dev test`: one broker for all the processes that run tests side by side.

It belongs to the process that starts the others: a broker ends with whoever started it, and each of the others ends as
soon as no test is left for it. The fixture `broker` finds its address; where there is none, it starts one of its own.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from meterproof_local.broker import LocalBroker
from meterproof_local.errors import LocalError
from meterproof_local.java import LAPTOP_OPTIONS

CALM = {"broker.heartbeat.interval.ms": "2000", "broker.session.timeout.ms": "9000"}
"""Kafka's own defaults: nobody restarts it, so its session need not end quickly; it idles at half the cost."""

ROOM = (*LAPTOP_OPTIONS, "-Xmx768m")
"""Twice the heap: the topics of all tests stay, and four tests use it at a time."""

STARTED = pytest.StashKey[LocalBroker]()


class BrokerElsewhere(LocalBroker):
    """That broker, for a test: where it is, and nothing that could hurt it. Lives as long as somebody looks at it."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(Path(os.devnull))  # no folder that a start could use
        self._bootstrap = bootstrap

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return self._bootstrap


def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Start it before the first process. If it cannot start, the tests that need one say why, and the others run."""
    folder = tempfile.TemporaryDirectory(prefix="meterproof-test-broker-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    broker = LocalBroker(Path(folder.name), properties=CALM, java_options=ROOM)
    config.add_cleanup(broker.kill)  # nobody reads its records again
    try:
        config.stash[STARTED] = broker.start()
    except LocalError:
        return


def pytest_configure_node(node: Any) -> None:
    """Tell each process where it is."""
    if broker := node.config.stash.get(STARTED, None):
        node.workerinput["broker"] = broker.bootstrap
