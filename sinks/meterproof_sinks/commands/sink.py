"""`meterproof sink`: run the workers that carry the log into its destinations."""

import asyncio
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
from meterproof_sinks.commands.sink_audit import app as audit_app
from meterproof_sinks.webhook_command import app as webhook_app

if TYPE_CHECKING:
    from meterproof.kafka.settings import KafkaSettings
    from meterproof_sinks.clickhouse import ClickHouse
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.sink import Sink

_FOLDER_PATIENCE_S = 15.0
_FOLDER_RETRY_S = 0.25

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
def run_clickhouse(  # noqa: PLR0917 - one parameter per option
    data: Annotated[Path, typer.Option(help="Folder of the deployment on this machine.")] = Path("data"),
    url: Annotated[
        str | None, typer.Option(help="A ClickHouse server, http(s)://host:port; default: the data folder's own.")
    ] = None,
    partitions: Annotated[
        str | None, typer.Option(help="Partitions to carry, like 0,1,2; default: all of them.")
    ] = None,
    bootstrap: Annotated[str | None, typer.Option(help="Kafka's address, host:port.")] = None,
    topic_prefix: Annotated[str | None, typer.Option("--prefix", help="Prefix of the deployment's topics.")] = None,
    port: Annotated[
        int, typer.Option(help="Port for queries on 127.0.0.1, without --url; 0 takes a free one.", min=0, max=65535)
    ] = 0,
    batch_rows: Annotated[int, typer.Option(help="Events per insert at most.", min=1)] = 20_000,
    batch_age_s: Annotated[float, typer.Option(help="Seconds after which fewer are inserted.", min=0.01)] = 0.5,
    rollup_interval_s: Annotated[
        float, typer.Option(help="Seconds between refreshes of the roll-ups; 0 leaves them to somebody else.", min=0)
    ] = 10.0,
) -> int:
    """Carry the log into ClickHouse until SIGTERM; logs are JSON lines on stderr.

    Tables are made, and brought up to date, in the data folder's own ClickHouse; a server's by `meterproof migrate`.
    Without --url, other programs read the tables through this worker: `meterproof query`, or the endpoint that
    DATA/clickhouse/endpoint.json names.

    Exit code: 0 stopped as asked, 1 could not start, 70 unexpected error, 78 log_diverged.
    """
    from meterproof_sinks.batch_bounds import BatchBounds
    from meterproof_sinks.clickhouse import ClickHouseError
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.sink_process import run_sink_process

    settings = ClickHouseSettings() if url is None else ClickHouseSettings(url=url)
    opened: list[ClickHouse] = []

    async def keep_rollups(_: object, stop: asyncio.Event) -> None:
        from meterproof_sinks import rollups

        if rollup_interval_s:
            await rollups.keep_rollups(opened[0], stop, rollup_interval_s)
        else:
            await stop.wait()

    try:
        return run_sink_process(
            lambda kafka: _open_clickhouse(kafka, settings, data, port, opened),
            beside=keep_rollups,
            name="clickhouse",
            data=data,
            bootstrap=bootstrap,
            topic_prefix=topic_prefix,
            partitions=partition_numbers(partitions),
            bounds=BatchBounds(rows_max=batch_rows, age_max_s=batch_age_s),
        )
    except ClickHouseError as error:
        raise _NotStarted(str(error)) from error


def partition_numbers(text: str | None) -> list[int] | None:
    """The partitions of an option like `0,1,2`; None, if it was not given, is all."""
    if text is None:
        return None
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 0:
        raise typer.BadParameter(f"{text!r} is not a list of partitions like 0,1,2", param_hint="--partitions")
    return numbers


class _NotStarted(Exception):
    """What kept a sink from starting."""


@asynccontextmanager
async def _open_clickhouse(
    kafka: "KafkaSettings", settings: "ClickHouseSettings", data: Path, port: int, opened: "list[ClickHouse]"
) -> "AsyncIterator[Sink]":
    """The sink, with the database behind it (put into `opened`), and for a folder the endpoint beside it."""
    from meterproof.kafka.price_books import read_price_books
    from meterproof_schemas.budget import parse_budgets
    from meterproof_sinks.clickhouse import ClickHouseError
    from meterproof_sinks.clickhouse_sink import ClickHouseSink
    from meterproof_sinks.migrate import migrate, pending
    from meterproof_sinks.query_front import QueryFront
    from meterproof_sinks.reference_rows import put_budgets

    # What they say of each attempt at a server that is away, the worker says once.
    for name in ("clickhouse_connect", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    clickhouse = await _opened(settings, data)
    async with AsyncExitStack() as stack:
        stack.callback(clickhouse.close)
        opened.append(clickhouse)
        if clickhouse.embedded:
            await asyncio.to_thread(migrate, clickhouse)
            await stack.enter_async_context(
                QueryFront(DataFolder(data).clickhouse, database=settings.database, port=port)
            )
        elif missing := await asyncio.to_thread(pending, clickhouse):
            raise ClickHouseError(
                f"the database lacks migration {missing[0].number:04} ({missing[0].name}); "
                f"run `meterproof migrate --url {settings.url}` first"
            )
        if DataFolder(data).budgets.is_file():
            budgets = parse_budgets(DataFolder(data).budgets.read_bytes())
            await asyncio.to_thread(put_budgets, clickhouse, budgets)
        yield ClickHouseSink(clickhouse, lambda: read_price_books(kafka))


async def _opened(settings: "ClickHouseSettings", data: Path) -> "ClickHouse":
    """The database; a folder that `meterproof query` has open is waited for, since it lets go soon."""
    from meterproof_sinks.clickhouse import FolderInUse

    deadline_s = asyncio.get_running_loop().time() + _FOLDER_PATIENCE_S
    while True:
        try:
            return await asyncio.to_thread(settings.open, data)
        except FolderInUse:
            if asyncio.get_running_loop().time() >= deadline_s:
                raise
            await asyncio.sleep(_FOLDER_RETRY_S)


app.add_typer(audit_app, name="audit")
app.add_typer(webhook_app, name="webhook")


def main(argv: list[str]) -> int:
    """Run the workers that carry the log into its destinations."""
    return run_app(app, "meterproof sink", argv, (MeterError, KafkaProblem, ContractError, _NotStarted, OSError))
