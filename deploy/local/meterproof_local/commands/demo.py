"""`meterproof demo`: the whole pipeline, broken on purpose, and counted."""

import asyncio
import os
import shlex
import signal
import sys
import tempfile
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meterproof.command_line import run_app
from meterproof.errors import MeterError
from meterproof_local.errors import LocalError
from meterproof_schemas.errors import ContractError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from meterproof_local.demo import Demo, DemoOptions, DemoResult, Progression

_SHOW_INTERVAL_S = 0.25
_SAY_INTERVAL_S = 2.0
_WIDTH_PIPED = 140

app = typer.Typer(add_completion=False)


class _TraceFormat(StrEnum):
    AZURE_LLM = "azure-llm"


@app.command(
    epilog="Example: meterproof demo   ·   meterproof demo --trace code.csv --format azure-llm --duplicates 0.1"
)
def demo(
    data: Annotated[
        Path | None, typer.Option(help="Folder to keep everything in; by default data/demo-<time>.", file_okay=False)
    ] = None,
    events: Annotated[int, typer.Option(help="Different events that the simulated agents send.", min=100)] = 12_000,
    duplicates: Annotated[
        str | None, typer.Option(help="Share of events to send twice; by default 0.1, with --trace 0.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Send this trace of requests instead, without attacks.", exists=True, dir_okay=False),
    ] = None,
    trace_format: Annotated[
        _TraceFormat, typer.Option("--format", help="How the trace is read.")
    ] = _TraceFormat.AZURE_LLM,
    seed: Annotated[int, typer.Option(help="Which events repeat, and what they cost.")] = 1,
    sequencers: Annotated[int, typer.Option(help="Sequencers that share the partitions.", min=1)] = 1,
    kill: Annotated[bool, typer.Option("--kill/--no-kill", help="Kill a sequencer in the middle.")] = True,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> int:
    """Run the whole pipeline on this machine, break it on purpose, and compare what every part counted.

    A real Kafka, four agents that report through real meters, repeats, forgeries, tampering, malformed events, and a
    kill -9 of the sequencer in the middle. What was sent is written down apart from the pipeline; every stage is
    counted against it at the end.

    Exit code: 0 if every difference is 0 and the audit log verifies, 1 if not.
    """
    import orjson

    from meterproof_local.demo import DemoOptions

    options = DemoOptions(
        data=data or _new_folder(),
        events=events,
        duplicates=_share(duplicates or ("0.1" if trace is None else "0")),
        trace=trace,
        trace_format=trace_format.value,
        seed=seed,
        sequencers=sequencers,
        kill=kill,
    )
    result = asyncio.run(_run(options))
    if result is None:
        return 1
    if as_json is not None:
        as_json.write_bytes(orjson.dumps(result.as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return 0 if result.holds else 1


async def _run(options: "DemoOptions") -> "DemoResult | None":
    """Run it and show it; None if it was ended by a signal."""
    from rich.console import Console

    from meterproof_local.demo import Demo
    from meterproof_local.download_line import show_download

    console = Console(width=None if sys.stdout.isatty() else _WIDTH_PIPED, highlight=False)
    running = asyncio.current_task()
    if running is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    console.print(f"Everything of this run is kept in {options.data}")
    demo = Demo(options, say=lambda text: console.print(text, soft_wrap=True, markup=False), on_download=show_download)
    showing = asyncio.create_task(_show(demo, console))
    try:
        result = await demo.run()
    except asyncio.CancelledError:
        console.print("Ended before the end.")
        return None
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
    _print_result(console, result, options)
    return result


async def _show(demo: "Demo", console: "Console") -> None:
    """Say where everything is, for as long as it runs."""
    from rich.live import Live

    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(_progress_table(demo.progression()), refresh=True)
                await asyncio.sleep(_SHOW_INTERVAL_S)
    said = ""
    while True:
        await asyncio.sleep(_SAY_INTERVAL_S)
        line = ", ".join(f"{name} {count:,}" for name, count, _ in _progress(demo.progression()))
        if line != said:
            console.print(f"  {line}", soft_wrap=True)
            said = line


def _progress(seen: "Progression") -> list[tuple[str, int, int]]:
    """Each figure with what it will become."""
    accepted = seen.sequenced.get("accepted", 0)
    return [
        ("sent", seen.sent, seen.to_send),
        ("sequenced", sum(seen.sequenced.values()), seen.sent),
        ("accepted", accepted, seen.sent),
        ("duplicates", seen.sequenced.get("duplicate", 0), seen.sent),
        ("refused", seen.sequenced.get("refused", 0), seen.sent),
        *((name, count, accepted) for name, count in seen.stages.items()),
    ]


def _progress_table(seen: "Progression") -> "Table":
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14)
    table.add_column(justify="right", min_width=9)
    table.add_column()
    for name, count, total in _progress(seen):
        table.add_row(name, f"{count:,}", ProgressBar(total=max(total, 1), completed=count, width=40))
    return table


def _print_result(console: "Console", result: "DemoResult", options: "DemoOptions") -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    ledger, measured = result.ledger, result.measured
    table = Table("", "expected", "found", "difference", box=SIMPLE, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("events sent", f"{ledger.sent:,}", "", "")
    table.add_row("  of these different and valid", f"{len(ledger.unique):,}", "", "")
    for check in result.checks:
        style = "green" if check.difference == 0 else "bold red"
        table.add_row(check.label, _figure(check.expected), _figure(check.found), f"[{style}]{check.difference:,}[/]")
    table.add_row("checkpoints signed", "", f"{measured.checkpoints:,}", "")
    console.print(table)
    for fault in measured.audit_faults:
        console.print(f"audit: {fault}", style="red")
    crash = ", with a crash in between" if options.kill else ""
    console.print(
        f"{result.broker}; {result.events_per_second:,} events/s from the first sent until all had arrived{crash}",
        soft_wrap=True,
    )
    if result.holds:
        console.print("Every difference is 0.", style="green")
    else:
        console.print(
            f"There are differences: see the table, and the workers' logs in {result.folder.logs}", style="bold red"
        )
    dev = os.environ.get("METERPROOF_DEV", "")  # how ./dev was called, where it was
    program = f"{'./dev' if dev == '1' else shlex.quote(dev)} exec meterproof" if dev else "meterproof"
    console.print("\nNext:")
    for what, command in result.commands(program, _shown(options.data)):
        console.print(f"  # {what}")
        console.print(f"  {command}", soft_wrap=True, markup=False)


def _figure(figure: int | str) -> str:
    return f"{figure:,}" if isinstance(figure, int) else figure


def _shown(data: Path) -> str:
    """A folder as it is typed here: relative below the current one."""
    absolute, here = data.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def _new_folder() -> Path:
    """A new folder below the current one, or, where that cannot be written to, among the temporary files."""
    name = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    try:
        Path("data").mkdir(exist_ok=True)
        folder = Path("data", name)
        folder.mkdir()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="meterproof-"), name)
    return folder


def _share(text: str) -> Decimal:
    try:
        share = Decimal(text)
    except InvalidOperation:
        share = Decimal(-1)
    if not 0 <= share <= 1:
        raise typer.BadParameter(f"{text!r} is not a share between 0 and 1", param_hint="--duplicates")
    return share


def main(argv: list[str]) -> int:
    """Run the whole pipeline, break it on purpose, and compare what every part counted."""
    from meterproof.kafka.errors import KafkaProblem
    from meterproof_sinks.clickhouse import ClickHouseError

    expected = (LocalError, MeterError, KafkaProblem, ContractError, ClickHouseError, OSError)
    return run_app(app, "meterproof demo", argv, expected)
