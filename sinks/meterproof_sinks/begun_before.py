"""Wait for what others had begun before something was noted that whatever begins later heeds."""

import time
from collections.abc import Callable
from typing import Final

from meterproof_sinks.clickhouse import ClickHouse, ClickHouseError
from meterproof_sinks.rollups import days_being_built

_PATIENCE_S: Final = 300.0
_POLL_S: Final = 0.2
_INSERTS: Final = """
SELECT query_id FROM system.processes WHERE query_kind = 'Insert' AND current_database = currentDatabase()
"""


def wait_for_inserts(clickhouse: ClickHouse) -> None:
    """Wait until each insert has ended that began before what is gone was noted: such a one could bring it back.

    An insert is let in by what is noted when it begins, and its rows lie there when it ends; after a crash or a cut
    connection nobody may know of it but the server. In a folder there is none: it has one process. Of a cluster, the
    server that is asked knows of its own.

    Raises:
        ClickHouseError: one did not end; what was noted stays, so run it again.
    """
    _wait(
        clickhouse,
        lambda: {query for (query,) in clickhouse.rows(_INSERTS)},
        "an insert that the server had begun before could bring back what is to go: query {} is still under way",
    )


def wait_for_builders(clickhouse: ClickHouse) -> None:
    """Wait until each day is swapped in that somebody began to build from rows that are to go, or are gone.

    In a folder nobody does: it has one process, which does one thing after another (`keep_rollups`).

    Raises:
        ClickHouseError: one was not; run it again.
    """
    _wait(
        clickhouse,
        lambda: days_being_built(clickhouse),
        "a day of roll-ups could be built from rows that are to go, or are gone: {} is still being built, or was left "
        "by a crash (then it goes within two hours)",
    )


def _wait(clickhouse: ClickHouse, under_way: Callable[[], set[str]], why: str) -> None:
    """Wait for what is under way now, and not for what begins meanwhile."""
    begun = set() if clickhouse.embedded else under_way()
    deadline_s = time.monotonic() + _PATIENCE_S
    while begun := begun & under_way() if begun else begun:
        if time.monotonic() > deadline_s:
            raise ClickHouseError(f"{why.format(min(begun))}; run it again")
        time.sleep(_POLL_S)
