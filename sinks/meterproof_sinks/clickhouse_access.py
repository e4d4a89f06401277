"""Reading a deployment's ClickHouse, whoever owns it now: a server, a running sink, or nobody."""

import contextlib
from pathlib import Path

from meterproof.deployment import DataFolder
from meterproof_sinks.clickhouse import ClickHouse, ClickHouseUnavailable
from meterproof_sinks.clickhouse_settings import ClickHouseSettings
from meterproof_sinks.query_front import READER_SETTINGS, read_endpoint


def open_reader(data: Path, url: str | None) -> ClickHouse:
    """A connection to read with: to the server of the URL or the variables, the sink that runs, or else the folder.

    Raises:
        ClickHouseError: it cannot be reached or opened.
    """
    settings = ClickHouseSettings()
    folder = DataFolder(data).clickhouse
    url = url or settings.url
    if url is not None:
        return settings.connect(url)
    if (there := running_sink(settings, folder)) is not None:
        return there
    return ClickHouse.read_folder(folder, database=settings.database, settings=READER_SETTINGS)


def running_sink(settings: ClickHouseSettings, folder: Path) -> ClickHouse | None:
    """A connection to the sink that has the folder open; None if none has.

    Raises:
        ClickHouseError: it refuses.
    """
    if (endpoint := read_endpoint(folder)) is not None:
        # The number of a process that is gone may have gone to another one.
        with contextlib.suppress(ClickHouseUnavailable):
            return settings.connect(endpoint.url)
    return None
