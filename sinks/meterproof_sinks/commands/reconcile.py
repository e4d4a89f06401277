"""`meterproof reconcile`: compare the log, the audit folder, ClickHouse's rows and its roll-ups."""

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from meterproof.command_line import run_app
from meterproof_sinks.commands.options import AsJson, Audit, Bootstrap, Data, Prefix, Url

if TYPE_CHECKING:
    from meterproof_schemas.price_book import PriceBook
    from meterproof_sinks.reconciliation_report import OnProgress, Reconciliation

_DIFFERENT = 1
_REPAIR_PATIENCE_S = 600.0
_WIDTH = 140

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: meterproof reconcile --data data   ·   meterproof reconcile --data data --no-kafka --json   ·   "
    "meterproof reconcile --data data --textfile /var/lib/node_exporter/meterproof.prom"
)
def reconcile(
    data: Data = Path("data"),
    audit: Audit = None,
    url: Url = None,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    kafka: Annotated[bool, typer.Option("--kafka/--no-kafka", help="Compare with Kafka's log too.")] = True,
    with_audit: Annotated[
        bool, typer.Option("--with-audit/--no-audit", help="Compare with the audit folder too.")
    ] = True,
    price_books: Annotated[
        list[Path] | None,
        typer.Option("--price-book", help="A price book file, of a version that is in neither AUDIT/prices nor Kafka."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Build all roll-ups again from the rows, then compare. Rows never change.")
    ] = False,
    textfile: Annotated[
        Path | None, typer.Option(help="Write the result there for Prometheus' textfile collector too.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Compare every stage by log and hour of usage, up to where all of them are; the pipeline may be running.

    Events, a fingerprint of their digests, each meter's sum and what each correction does must be the same in Kafka's
    log, in the audit folder and in ClickHouse's rows; each column of each row must say what its line, its batch and its
    price book say, and each row of records what its record says; roll-ups must equal the rows; no identity may be
    counted twice or under two agents.

    Exit code: 0 all was compared and nothing differs, 1 something differs, or could not be compared (Kafka is away, a
    folder is missing, ClickHouse is empty), 2 wrong usage. What was given up by retention, or is left out by --no-kafka
    or --no-audit, is named and no fault, as long as the rows of each log are compared with something.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=as_json or not sys.stderr.isatty(),
    ) as progress:
        tasks = {stage: progress.add_task(f"reading the {stage}", total=None) for stage in ("audit", "log")}
        if repair:
            _repair(data, url)
        found = asyncio.run(
            _compare(
                data,
                (audit or data / "audit") if with_audit else None,
                url,
                (bootstrap, topic_prefix) if kafka else None,
                lambda stage, events: progress.advance(tasks[stage], events),
                _books(price_books or []),
            )
        )
    if textfile is not None:
        _export(found, textfile)
    if as_json:
        typer.echo(orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2))
    else:
        _show(found)
    return 0 if found.holds else _DIFFERENT


async def _compare(
    data: Path,
    audit: Path | None,
    url: str | None,
    kafka: tuple[str | None, str | None] | None,
    on_progress: "OnProgress",
    books: "dict[int, PriceBook]",
) -> "Reconciliation":
    from meterproof.deployment import DataFolder
    from meterproof_sinks.clickhouse_access import open_reader
    from meterproof_sinks.reconciliation import reconcile as compare

    settings = None if kafka is None else DataFolder(data).kafka_settings(*kafka)
    clickhouse = await asyncio.to_thread(open_reader, data, url)
    try:
        return await compare(clickhouse, audit, settings, on_progress, books)
    finally:
        clickhouse.close()


def _books(files: list[Path]) -> "dict[int, PriceBook]":
    from meterproof_schemas.price_book import load_price_book

    return {book.version: book for book in map(load_price_book, files)}


def _repair(data: Path, url: str | None) -> None:
    """Have all roll-ups built again: by the sink that owns the folder, or else here."""
    from meterproof.deployment import DataFolder
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.query_front import read_endpoint
    from meterproof_sinks.rollups import REQUEST_FILE, Rollups

    settings = ClickHouseSettings() if url is None else ClickHouseSettings(url=url)
    folder = DataFolder(data).clickhouse
    if settings.url is None and read_endpoint(folder) is not None:
        request = folder / REQUEST_FILE
        request.touch()
        deadline_s = time.monotonic() + _REPAIR_PATIENCE_S
        while request.exists():
            if time.monotonic() > deadline_s:
                raise _NotRepaired(f"the running sink did not build the roll-ups again; {request} still asks it to")
            time.sleep(0.2)
        return
    clickhouse = settings.open(data)
    try:
        Rollups(clickhouse).rebuild()
    finally:
        clickhouse.close()


class _NotRepaired(Exception):
    """The roll-ups were not built again."""


def _export(found: "Reconciliation", textfile: Path) -> None:
    """For Prometheus; the file is replaced whole."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    from meterproof_sinks.reconciliation_report import KINDS
    from meterproof_sinks.whole_file import whole_file

    registry = CollectorRegistry()
    differences = Gauge(
        "meterproof_reconcile_differences", "What must not be, by kind; 0 is right", ["kind"], registry=registry
    )
    for kind in KINDS:
        differences.labels(kind).set(found.counts[kind])
    compared = Gauge("meterproof_reconcile_events", "Events that were compared, by stage", ["stage"], registry=registry)
    for stage, events in found.compared.items():
        compared.labels(stage).set(events)
    behind = Gauge(
        "meterproof_reconcile_rollup_lag_events", "Events not in a roll-up yet", ["rollup"], registry=registry
    )
    for grain, events in found.behind.items():
        behind.labels(grain).set(events)
    Gauge("meterproof_reconcile_skipped", "Stages that were not compared", registry=registry).set(len(found.skipped))
    Gauge(
        "meterproof_reconcile_not_compared", "What was to be compared and could not be; 0 is right", registry=registry
    ).set(len(found.not_compared))
    Gauge(
        "meterproof_reconcile_finished_seconds", "When, in seconds since 1970", registry=registry
    ).set_to_current_time()
    with whole_file(textfile) as file:
        file.write(generate_latest(registry))


def _show(found: "Reconciliation") -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    table = Table("stage", "events compared", "behind", box=SIMPLE)
    table.columns[1].justify = table.columns[2].justify = "right"
    names = {"log": "Kafka's log", "audit": "audit folder", "rows": "ClickHouse rows"}
    for stage in ("log", "audit", "rows", "minute", "hour", "day"):
        if stage in found.compared:
            behind = found.behind.get(stage)
            name = names.get(stage, f"roll-up by {stage}")
            table.add_row(name, f"{found.compared[stage]:,}", "" if behind is None else f"{behind:,}")
    console.print(table)
    for log, position in found.up_to.items():
        console.print(Text(f"{log}: compared up to position {position:,}"))
    for text in (*found.skipped, *found.notes):
        console.print(Text(f"Not compared: {text}" if text in found.skipped else text, style="yellow"))
    for difference in found.differences:
        where = " ".join(part for part in (difference.log, difference.hour) if part)
        console.print(Text(f"{difference.kind}: {where}: {difference.detail}".replace(": : ", ": "), style="red"))
    total = sum(found.counts.values())
    missed = f" {len(found.not_compared):,} could not be compared: see above." if found.not_compared else ""
    console.print(Text(f"{total:,} differences.{missed}", style="green" if found.holds else "red"))


def main(argv: list[str]) -> int:
    """Compare log, audit folder, ClickHouse and its roll-ups; every difference must be 0."""
    from meterproof.errors import MeterError
    from meterproof_schemas.errors import ContractError
    from meterproof_sinks.clickhouse import ClickHouseError

    expected = (ClickHouseError, ContractError, MeterError, OSError, _NotRepaired)
    return run_app(app, "meterproof reconcile", argv, expected)
