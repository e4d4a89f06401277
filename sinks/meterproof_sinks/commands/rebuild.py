"""`meterproof rebuild`: make ClickHouse again from the audit folder."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from meterproof.command_line import run_app
from meterproof_sinks.commands.options import AsJson, Audit, Data, Url

if TYPE_CHECKING:
    from meterproof_schemas.price_book import PriceBook
    from meterproof_sinks.clickhouse import ClickHouse
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.rebuilding import Rebuilt

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: meterproof rebuild --data data --replace   ·   "
    "meterproof rebuild --data data --url https://clickhouse:8443 --price-book books/1.json --price-book books/2.json"
)
def rebuild(
    data: Data = Path("data"),
    audit: Audit = None,
    url: Url = None,
    price_books: Annotated[
        list[Path] | None,
        typer.Option(
            "--price-book", help="A price book file beside those in AUDIT/prices. Default: DATA's own, if there."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop the database first. Without it, what is missing is added.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Write everything that the audit folder holds into ClickHouse, as the sink does, and build the roll-ups.

    Neither Kafka nor the old ClickHouse is needed. Stop the sink first; started again, it goes on where the folder
    ended. A rebuild that was cut off goes on when it is run again, without --replace.

    Exit code: 0 done, 1 it could not be done, 2 wrong usage.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from meterproof_sinks.clickhouse_settings import ClickHouseSettings

    folder = audit or data / "audit"
    books = _books(folder, price_books or [path for path in [data / "price-book.json"] if path.is_file()])
    settings = ClickHouseSettings() if url is None else ClickHouseSettings(url=url)
    events = _events_in(folder)
    if replace:
        _refuse_unmakeable(folder)
    clickhouse = _opened(settings, data, replace=replace)
    try:
        with Progress(
            TextColumn("rebuilding"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("events"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=as_json or not sys.stderr.isatty(),
        ) as progress:
            task = progress.add_task("rebuild", total=events)
            rebuilt = asyncio.run(_run(clickhouse, folder, books, lambda events: progress.advance(task, events)))
    finally:
        clickhouse.close()
    _tell(rebuilt, as_json=as_json)
    return 0


async def _run(clickhouse: "ClickHouse", folder: Path, books: "dict[int, PriceBook]", on_progress: object) -> "Rebuilt":
    from meterproof_sinks.rebuilding import given_books
    from meterproof_sinks.rebuilding import rebuild as run

    return await run(clickhouse, folder, given_books(books), on_progress)  # type: ignore[arg-type]


class _CannotRebuild(Exception):
    """It cannot begin."""


def _books(audit: Path, files: list[Path]) -> "dict[int, PriceBook]":
    from meterproof_schemas.price_book import parse_price_book
    from meterproof_sinks.price_book_folder import price_books_for

    return {version: parse_price_book(content) for version, content in price_books_for(audit, files).items()}


def _events_in(folder: Path) -> int:
    """How many events an audit folder holds, for the progress bar."""
    from meterproof_sinks.audit_events import count_events
    from meterproof_sinks.audit_folder import log_folders

    logs = log_folders(folder)
    if not logs:
        raise _CannotRebuild(f"{folder} holds no log; give the audit folder with --audit")
    return sum(map(count_events, logs))


def _refuse_unmakeable(folder: Path) -> None:
    """Return if all rows can be made again, before the ones that are there are dropped."""
    from meterproof_sinks.audit_folder import log_folders
    from meterproof_sinks.rebuilding import refuse_given_up

    for log in log_folders(folder):
        refuse_given_up(log)


def _opened(settings: "ClickHouseSettings", data: Path, *, replace: bool) -> "ClickHouse":
    clickhouse = settings.open(data)
    if not replace:
        return clickhouse
    clickhouse.command("DROP DATABASE {database:Identifier} SYNC", {"database": settings.database})
    clickhouse.close()
    return settings.open(data)


def _tell(rebuilt: "Rebuilt", *, as_json: bool) -> None:
    if as_json:
        written = {
            "events": rebuilt.events,
            "there": rebuilt.there,
            "unfinished": rebuilt.unfinished,
            "days": rebuilt.days,
        }
        typer.echo(orjson.dumps(written, option=orjson.OPT_INDENT_2))
        return
    for log, events in rebuilt.events.items():
        there = f", {rebuilt.there[log]:,} were there" if rebuilt.there[log] else ""
        typer.echo(f"{log}: {events:,} events written{there}")
    for log in rebuilt.unfinished:
        typer.echo(f"{log}: the last record in the audit folder is not whole; the sink carries it")
    typer.echo(f"Roll-ups of {rebuilt.days} days were built. Compare with: meterproof reconcile")


def main(argv: list[str]) -> int:
    """Make ClickHouse again from the audit folder alone."""
    from meterproof_schemas.errors import ContractError
    from meterproof_sinks.sink import SinkFault

    return run_app(app, "meterproof rebuild", argv, (SinkFault, ContractError, OSError, _CannotRebuild))
