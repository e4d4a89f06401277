"""`meterproof sink`: run the workers that carry the log into its destinations."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meterproof.command_line import run_app
from meterproof.deployment import DataFolder
from meterproof.errors import MeterError
from meterproof.kafka.errors import KafkaProblem
from meterproof_schemas.errors import ContractError
from meterproof_sinks.commands.options import Bootstrap, Data, Prefix, Url, partition_numbers
from meterproof_sinks.commands.sink_audit import app as audit_app
from meterproof_sinks.commands.sink_webhook import app as webhook_app
from meterproof_sinks.sink import SinkFault

if TYPE_CHECKING:
    from meterproof.kafka.settings import KafkaSettings
    from meterproof_sinks.clickhouse_opening import ClickHouseOpening
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.sink import Sink

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Run the workers that carry the log into its destinations."
)
clickhouse_app = typer.Typer(no_args_is_help=True, help="Rows in ClickHouse, for SQL.")
app.add_typer(clickhouse_app, name="clickhouse")


@clickhouse_app.callback()
def _clickhouse() -> None:
    """Rows in ClickHouse, for SQL."""


@clickhouse_app.command(
    "run",
    epilog="Example: meterproof sink clickhouse run --data data   ·   "
    "METERPROOF_CLICKHOUSE_PASSWORD=… meterproof sink clickhouse run --data data --url https://clickhouse:8443",
)
def run_clickhouse(
    data: Data = Path("data"),
    url: Url = None,
    partitions: Annotated[
        str | None, typer.Option(help="Partitions to carry, like 0,1,2; default: all of them.")
    ] = None,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    port: Annotated[
        int, typer.Option(help="Port for queries on 127.0.0.1, without --url; 0 takes a free one.", min=0, max=65535)
    ] = 0,
    batch_rows: Annotated[int, typer.Option(help="Events of all logs together per insert at most.", min=1)] = 100_000,
    batch_age_s: Annotated[float, typer.Option(help="Seconds after which fewer are inserted.", min=0.01)] = 0.4,
    rollup_interval_s: Annotated[
        float, typer.Option(help="Seconds between refreshes of the roll-ups; 0 leaves them to somebody else.", min=0)
    ] = 10.0,
) -> int:
    """Carry the log into ClickHouse until SIGTERM; logs are JSON lines on stderr.

    Beside it alerts, signed checkpoints and price books go into tables of their own, and roll-ups are kept up to date.
    Tables are made, and brought up to date, in the data folder's own ClickHouse; a server's by `meterproof migrate`.
    A server that is away is waited for, at the start too: the worker is alive and not ready.
    Without --url, other programs read the tables through this worker: `meterproof query`, or the endpoint that
    DATA/clickhouse/endpoint.json names.

    Exit code: 0 stopped as asked, 1 could not start, 70 unexpected error, 75 try again, 78 log_diverged.
    """
    from dataclasses import replace

    from meterproof_sinks.batch_bounds import CLICKHOUSE_BOUNDS
    from meterproof_sinks.clickhouse_opening import ClickHouseOpening
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.erasure_request import keep_erasures
    from meterproof_sinks.followed_topics import follow_topics
    from meterproof_sinks.rollups import keep_rollups
    from meterproof_sinks.sink_process import run_sink_process, run_together

    settings = ClickHouseSettings() if url is None else ClickHouseSettings(url=url)
    database = ClickHouseOpening(settings, data)

    async def keep_other_tables(kafka: "KafkaSettings", stop: asyncio.Event) -> None:
        clickhouse = await database.reached(stop)
        if clickhouse is None:
            return
        turn = asyncio.Lock()
        parts = [follow_topics(clickhouse, kafka, stop)]
        if rollup_interval_s:
            parts.append(keep_rollups(clickhouse, stop, rollup_interval_s, turn=turn, backlog=database.backlog))
        if clickhouse.embedded:
            parts.append(keep_erasures(clickhouse, stop, turn))
        await run_together(stop, *parts)

    return run_sink_process(
        lambda kafka: _open_clickhouse(kafka, settings, data, port, database, rolls_up=rollup_interval_s > 0),
        beside=keep_other_tables,
        name="clickhouse",
        data=data,
        bootstrap=bootstrap,
        topic_prefix=topic_prefix,
        partitions=partition_numbers(partitions),
        bounds=replace(CLICKHOUSE_BOUNDS, rows_max=batch_rows, age_max_s=batch_age_s),
    )


@asynccontextmanager
async def _open_clickhouse(
    kafka: "KafkaSettings",
    settings: "ClickHouseSettings",
    data: Path,
    port: int,
    database: "ClickHouseOpening",
    *,
    rolls_up: bool,
) -> "AsyncIterator[Sink]":
    """The sink over the database, which may be a server that is away; a folder has the endpoint beside it.

    Afterwards, when nothing is written any more, roll-ups are refreshed once more, unless an error ends the worker.
    """
    from meterproof.kafka.price_books import read_price_books
    from meterproof_sinks.clickhouse import ClickHouseUnavailable
    from meterproof_sinks.clickhouse_opening import OpeningSink
    from meterproof_sinks.query_front import QueryFront
    from meterproof_sinks.rollups import refresh_last

    # What they say of each attempt at a server that is away, the worker says once.
    for name in ("clickhouse_connect", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    async with AsyncExitStack() as stack:
        stack.callback(database.close)
        with contextlib.suppress(ClickHouseUnavailable):  # asked again by the worker, which says so
            await database.reach()
        if settings.url is None:
            await stack.enter_async_context(
                QueryFront(DataFolder(data).clickhouse, database=settings.database, port=port)
            )
        sink = OpeningSink(database, lambda: read_price_books(kafka))
        yield sink
        if rolls_up and not sink.away:
            await asyncio.to_thread(refresh_last, await database.reach())


app.add_typer(audit_app, name="audit")
app.add_typer(webhook_app, name="webhook")


def main(argv: list[str]) -> int:
    """Run the workers that carry the log into its destinations."""
    return run_app(app, "meterproof sink", argv, (MeterError, KafkaProblem, ContractError, SinkFault, OSError))
