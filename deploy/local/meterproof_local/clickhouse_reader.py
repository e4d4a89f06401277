"""Reading a data folder's ClickHouse, whether the pipeline runs or not."""

import time
from collections.abc import Mapping
from typing import Any, Final

from meterproof.deployment import DataFolder
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseUnavailable, FolderInUse
from meterproof_sinks.query_front import read_endpoint

_PATIENCE_S: Final = 10.0
_RETRY_S: Final = 0.3


def clickhouse_rows(folder: DataFolder, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """The result of a query, in Python's types; through the running sink, or else from the folder itself. Blocking.

    A sink that is starting has the folder and does not answer yet, so it is asked again for some seconds.

    Raises:
        ClickHouseError: there is none yet, it is in use by something that does not answer, or it refuses.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return _ask(folder, sql, parameters or {})
        except (FolderInUse, ClickHouseUnavailable):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_RETRY_S)


def _ask(folder: DataFolder, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    endpoint = read_endpoint(folder.clickhouse)
    clickhouse = ClickHouse.read_folder(folder.clickhouse) if endpoint is None else ClickHouse.connect(endpoint.url)
    try:
        return clickhouse.rows(sql, parameters)
    finally:
        clickhouse.close()
