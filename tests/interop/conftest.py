"""Says at the end of a run which of other people's programs ran, and which could not be had."""

import pytest

from tests.interop import tools


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not tools.ran and not tools.missing:
        return
    terminalreporter.section("other people's programs")
    terminalreporter.write_line(f"{len(tools.ran)} of {len(tools.ran) + len(tools.missing)} ran")
    for tool, times in sorted(tools.ran.items()):
        terminalreporter.write_line(f"  {tool}: {times} times")
    for tool, reason in sorted(tools.missing.items()):
        terminalreporter.write_line(f"  {tool}: not here: {reason}")
