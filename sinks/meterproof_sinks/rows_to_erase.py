"""A deployment's ClickHouse, whoever has it now, as `meterproof erase` needs it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from meterproof.deployment import DataFolder
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.clickhouse_access import running_sink
from meterproof_sinks.clickhouse_settings import ClickHouseSettings
from meterproof_sinks.erasure import Erasure
from meterproof_sinks.erasure_request import OnWait, ask_sink
from meterproof_sinks.log_bounds import carried
from meterproof_sinks.migrate import migrate
from meterproof_sinks.row_erasure import erase_rows

_CARRIED_PATIENCE_S: Final = 15.0
_POLL_S: Final = 0.2


class RowsToErase:
    """Rows in a server, in a folder that nobody has, or in one that a running sink has: then the sink erases them.

    Lives as long as the command.
    """

    def __init__(self, settings: ClickHouseSettings, data: Path, *, patience_s: float, on_wait: OnWait) -> None:
        """Open it.

        Args:
            settings: which server, or none.
            data: of the deployment.
            patience_s: how long a running sink is waited for.
            on_wait: told who is waited for, and since when.

        Raises:
            ClickHouseError: it cannot be opened or reached.

        """
        self._folder = DataFolder(data).clickhouse
        self._patience_s = patience_s
        self._on_wait = on_wait
        self.clickhouse, self._is_sinks = self._opened(settings, data)
        self._may_grow = self._is_sinks or settings.url is not None

    def _opened(self, settings: ClickHouseSettings, data: Path) -> tuple[ClickHouse, bool]:
        if settings.url is None and (there := running_sink(settings, self._folder)) is not None:
            return there, True
        clickhouse = settings.open(data)
        migrate(clickhouse, replicated=settings.replicated)
        return clickhouse, False

    def erase(self, erasure: Erasure, due: Mapping[str, int]) -> tuple[int, int]:
        """Erase the rows once a sink that may run has carried what is due, or has had some seconds for it.

        See `erase_rows`; `due` has, by log, how many events the audit folder held.

        Raises:
            ClickHouseError: it was not done; run it again.
            OSError: a file cannot be read or written.
        """
        deadline_s = time.monotonic() + min(_CARRIED_PATIENCE_S, self._patience_s)
        while self._may_grow and self.behind(due) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        if self._is_sinks:
            return ask_sink(self._folder, erasure, patience_s=self._patience_s, on_wait=self._on_wait)
        return erase_rows(self.clickhouse, erasure)

    def behind(self, due: Mapping[str, int]) -> dict[str, int]:
        """By log, where the rows end, if that is before what is due.

        Raises:
            ClickHouseError: ClickHouse cannot be asked.
        """
        there = carried(self.clickhouse)
        return {log: there.get(log, 0) for log, position in due.items() if there.get(log, 0) < position}

    def close(self) -> None:
        """Let go of it."""
        self.clickhouse.close()
