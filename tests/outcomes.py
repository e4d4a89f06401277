"""A pytest plugin for `./dev test`: notes each outcome the moment it is known, so that even a crash can be counted.

One letter per outcome, appended to the file that `METERPROOF_TEST_OUTCOMES` names: `p` passed, `f` failed or error,
`s` skipped or expected to fail, `r` failed and tried again. The letters count what pytest's own closing line counts.
"""

import os
from pathlib import Path

import pytest


def note(letter: str) -> None:
    """Append one letter; nothing is noted if nobody asked for it."""
    if name := os.environ.get("METERPROOF_TEST_OUTCOMES"):
        with Path(name).open("a", encoding="ascii") as file:
            file.write(letter)


def pytest_configure(config: pytest.Config) -> None:
    """Leave the counting to the process that this one tells its reports, if it is one of several."""
    if hasattr(config, "workerinput"):
        config.pluginmanager.unregister(name="tests.outcomes")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a test's call, and whatever went wrong in setting it up or clearing it away."""
    if report.failed:
        note("f")
    elif report.skipped:
        note("s")
    elif not report.passed:  # pytest-rerunfailures' own outcome, "rerun"
        note("r")
    elif report.when == "call":
        note("p")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count a module that cannot be imported, or that skips itself."""
    if report.failed:
        note("f")
    elif report.skipped:
        note("s")
