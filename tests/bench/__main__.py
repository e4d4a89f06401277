"""`./dev bench`: measure the parts and the whole on one real Kafka, print a table, write JSON."""

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NoReturn

import orjson
import typer
from rich.console import Console
from rich.status import Status

from tests.bench.findings import Findings
from tests.bench.plan import ASKED_FOR, BENCHES, MEMORY, PEERS, QUICK_EVENTS, Task, plan
from tests.bench.rate import TooShort
from tests.bench.report import as_json, print_findings
from tests.bench.rig import BenchFailed, NotHere, Rig

_BATCHES: Final = (1, 10, 100, 500)
_BATCHES_PEERS: Final = (1, 100)
_BATCHES_ONE: Final = (100,)
_WIDTH: Final = 120
"""Of the tables where they go into a file."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: ./dev bench --only sequencer --only naive --runs 3 --json bench.json")
def bench(  # noqa: PLR0917 - options of the command line
    only: Annotated[
        list[str] | None, typer.Option(help=f"Run this bench only; repeatable. One of: {', '.join(BENCHES)}.")
    ] = None,
    peers: Annotated[
        bool,
        typer.Option("--peers", help=f"Beside what people would pick instead: {', '.join(PEERS)}."),
    ] = False,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory",
            help=f"Every worker, for its memory by quarter of a long run (--events 2000000): {', '.join(MEMORY)}.",
        ),
    ] = False,
    events: Annotated[
        int, typer.Option(help="Events at batches of 100; the others take a fixed share of it.", min=1_000)
    ] = 600_000,
    runs: Annotated[int, typer.Option(help="Runs of each; the table shows medians.", min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything found to this file.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"One run of {QUICK_EVENTS} events, batches of 100: it works; measures nothing."),
    ] = False,
) -> None:
    """Measure the parts and the whole, each as a real process on one real Kafka.

    Ended early (Ctrl-C, SIGTERM), it shows what it has found so far.

    Exit code: 0 measured, 1 a process failed or gave a wrong result, 2 wrong usage, 130 or 143 ended early.
    """
    chosen = [*(only or []), *(PEERS if peers else ()), *(MEMORY if memory else ())]
    chosen = chosen or [name for name in BENCHES if name not in ASKED_FOR]
    chosen = sorted(set(chosen), key=lambda name: BENCHES.index(name) if name in BENCHES else -1)
    if chosen[0] not in BENCHES:
        raise typer.BadParameter(f"no bench {chosen[0]!r}; there are {', '.join(BENCHES)}", param_hint="--only")
    if quick:
        events, runs = QUICK_EVENTS, 1
    batches = _BATCHES_ONE if quick or memory else _BATCHES_PEERS if peers else _BATCHES
    console = Console(stderr=True)
    findings, code = Findings(), 0
    try:
        with _told(console) as say:
            _measure(
                plan(chosen, findings, events=events, batches=batches, quick=quick), runs, say, findings, quick=quick
            )
    except (BenchFailed, TooShort) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    except _Terminated:
        code = 128 + signal.SIGTERM
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    if json_file is not None:
        options = {"only": chosen, "events": events, "runs": runs, "quick": quick}
        json_file.write_bytes(orjson.dumps(as_json(findings, options), option=orjson.OPT_INDENT_2))
    out = Console()
    print_findings(out if out.is_terminal else Console(width=_WIDTH), findings)
    if quick:
        out.print("a quick run: the figures mean nothing")
    if code:
        out.print("ended early: not all runs were made")
        raise typer.Exit(code)


class _Terminated(BaseException):
    """SIGTERM came."""


def _measure(tasks: list[Task], runs: int, say: Callable[[str], None], findings: Findings, *, quick: bool) -> None:
    """Make the rounds; what this machine lacks something for is left out and noted."""
    # Whole rounds, so that a disturbance of some seconds does not hit all runs of one bench.
    rounds = [task for run in range(runs) for task in tasks if task.every_round or run == 0]
    doing = ""
    with (
        tempfile.TemporaryDirectory(prefix="meterproof-bench-") as folder,
        Rig.opened(Path(folder), lambda text: say(f"{doing}{text}"), quick=quick) as rig,
    ):
        for number, task in enumerate(rounds, start=1):
            doing = f"[{number}/{len(rounds)}] {task.bench} {task.name}".rstrip() + ": "
            if task.bench in findings.not_here:
                continue
            try:
                asyncio.run(task.measure(rig))
            except NotHere as reason:
                findings.not_here[task.bench] = str(reason)


@contextmanager
def _told(console: Console) -> Iterator[Callable[[str], None]]:
    """Show what is being done: one living line on a terminal, a line per step elsewhere."""
    began_s = time.monotonic()
    if console.is_terminal:
        with Status("", console=console) as status:
            yield lambda text: status.update(f"{time.monotonic() - began_s:4.0f} s  {text}")
    else:
        yield lambda text: console.print(f"{time.monotonic() - began_s:4.0f} s  {text}", highlight=False, markup=False)


def _terminate(*_: object) -> NoReturn:
    """End as by Ctrl-C: with the children, and the folder."""
    raise _Terminated


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    app()
