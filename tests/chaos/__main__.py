"""`./dev chaos`: hurt a running pipeline on purpose, again and again, and count everything afterwards."""

import asyncio
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from meterproof_local.errors import LocalError
from tests.chaos.faults import FAULTS
from tests.chaos.run import QUICK_RATE, Outcome, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: ./dev chaos --minutes 10 --seed 7   ·   the same seed: the same faults in the same order")
def chaos(  # noqa: PLR0917 - one parameter per option
    minutes: Annotated[float | None, typer.Option(help="How long faults are injected; default 5.", min=0)] = None,
    faults: Annotated[int | None, typer.Option(help="How many faults, instead of a time.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything drawn; default: a new one, which is printed.")] = None,
    rate: Annotated[int, typer.Option(help="Events a second.", min=1)] = 400,
    only: Annotated[
        list[str] | None, typer.Option(help="Inject only faults whose name begins so; repeatable.", show_default=False)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One round of all faults that recover quickly: what the tests run.")
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="Run in this new folder, and keep it.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything found to this file.")] = None,
) -> None:
    """Run the whole pipeline under load, inject faults, and compare what every stage has with what was sent.

    Exit code: 0 nothing was lost, doubled or forked and everything recovered, 1 something was not, 2 wrong usage.
    """
    times = _chosen(only, quick=quick)
    if quick:
        faults, minutes, rate = sum(times.values()), None, QUICK_RATE
    if keep is not None and keep.exists():
        raise typer.BadParameter(f"{keep} exists already", param_hint="--keep")
    outcome = Outcome(secrets.randbelow(1 << 32) if seed is None else seed)
    console, began_s = Console(stderr=True), time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began_s:5.0f} s  {text}", highlight=False, markup=False)

    say(f"seed {outcome.seed}")
    folder = keep or Path(tempfile.mkdtemp(prefix="meterproof-chaos-"))
    fault = _run(folder / "data", outcome, times, say, rate=rate, faults=faults, minutes=minutes)
    if json_file is not None:
        json_file.write_bytes(orjson.dumps(outcome.as_json() | {"error": fault}, option=orjson.OPT_INDENT_2))
    _print(Console(), outcome)
    if outcome.holds and fault is None:
        console.print(f"All is well: {len(outcome.recoveries)} faults, {outcome.events:,} events (seed {outcome.seed})")
        if keep is None:
            shutil.rmtree(folder)
        return
    reason = fault or f"differences: {outcome.differences}"
    console.print(f"chaos: {reason}", style="red", markup=False)
    console.print(f"seed {outcome.seed}; everything is left in {folder}", markup=False)
    raise typer.Exit(1)


def _run(
    data: Path,
    outcome: Outcome,
    times: Mapping[str, int],
    say: Callable[[str], None],
    *,
    rate: int,
    faults: int | None,
    minutes: float | None,
) -> str | None:
    """What went wrong, in words; None if the run came to its end."""
    if faults is None and minutes is None:
        minutes = 5.0
    try:
        asyncio.run(run(data, outcome, times, rate=rate, faults=faults, minutes=minutes, say=say))
    except (AssertionError, LocalError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _chosen(only: list[str] | None, *, quick: bool) -> dict[str, int]:
    """The faults whose names begin with one of these, all without any; with how often each strikes in a round."""
    chosen = {
        name: fault.times
        for name, fault in FAULTS.items()
        if not (quick and fault.slow) and (not only or any(name.startswith(begin) for begin in only))
    }
    if not chosen:
        known = "\n  ".join(FAULTS)
        raise typer.BadParameter(f"no fault's name begins so; there are\n  {known}", param_hint="--only")
    return chosen


def _print(console: Console, outcome: Outcome) -> None:
    """Recovery by fault, and what the judge found."""
    recovery = Table("fault", "times", "log: median", "max", "everywhere: median", "max", title="Seconds to recover")
    for name, row in outcome.by_fault().items():
        recovery.add_row(name, *(str(value) for value in row.values()))
    console.print(recovery)
    if outcome.checks:
        verdict = Table("figure", "expected", "found", "difference", title="Judgement")
        for check in outcome.checks:
            style = "red" if check.difference else None
            verdict.add_row(check.label, str(check.expected), str(check.found), str(check.difference), style=style)
        console.print(verdict)


if __name__ == "__main__":
    sys.exit(app())
