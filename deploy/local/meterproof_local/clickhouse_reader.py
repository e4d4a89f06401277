"""Reading a data folder's ClickHouse, whether the pipeline runs or not."""

from collections.abc import Mapping
from typing import Any

from meterproof.deployment import DataFolder
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.query_front import read_endpoint


def clickhouse_rows(folder: DataFolder, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """The result of a query, in Python's types; through the running sink, or else from the folder itself. Blocking.

    Raises:
        ClickHouseError: there is none yet, it is in use by something that does not answer, or it refuses.
    """
    endpoint = read_endpoint(folder.clickhouse)
    clickhouse = ClickHouse.read_folder(folder.clickhouse) if endpoint is None else ClickHouse.connect(endpoint.url)
    try:
        return clickhouse.rows(sql, parameters or {})
    finally:
        clickhouse.close()
