"""`./dev bench`: measure the parts and the whole on one real Kafka, print a table, write JSON."""

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import orjson
import typer
from rich.console import Console
from rich.status import Status

from tests.bench.bare_loop import measure_bare_loop
from tests.bench.drain import measure_sink, measure_stage
from tests.bench.growth import SIZES, SIZES_QUICK, Growth, measure_growth
from tests.bench.latency import Latency, measure_latency
from tests.bench.meter import measure_meter
from tests.bench.naive import measure_naive
from tests.bench.rate import TooShort
from tests.bench.report import as_json, print_results
from tests.bench.result import Result, Run
from tests.bench.rig import BenchFailed, Rig
from tests.bench.sequencer import measure_sequencer
from tests.bench.steps import StepTable, measure_steps

BATCHES: Final = (1, 10, 100, 500)
BATCHES_QUICK: Final = (100,)
BENCHES: Final = (
    *("profile", "bare", "meter", "sequencer", "asyncio", "rocksdb", "naive"),
    *("clickhouse", "audit", "checkpointer", "budgets", "latency", "growth"),
)
_ASKED_FOR: Final = ("growth",)
"""Takes minutes and gigabytes of disk: only where it is asked for."""
_SHARE_OF_EVENTS: Final = {1: 1 / 12, 10: 1 / 2, 100: 1.0, 500: 1.0}
"""Small batches cost more per event: fewer events take as long."""
_METER_SHARE: Final = 1 / 8
_NAIVE_SHARE: Final = 1 / 20
_PROFILE_EVENTS: Final = 20_000
_PROFILE_PASSES: Final = 5
_QUICK_EVENTS: Final = 12_000
_LATENCY_S: Final = 20.0
_LATENCY_QUICK_S: Final = 3.0
_WIDTH: Final = 120
"""Of the tables where they go into a file."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class _Task:
    """One line of the table."""

    bench: str
    variant: str
    unit: str
    batch: int | None
    measure: Callable[[Rig], Coroutine[None, None, Run]]


@app.command(epilog="Example: ./dev bench --only sequencer --only naive --runs 3 --json bench.json")
def bench(
    only: Annotated[
        list[str] | None, typer.Option(help=f"Run this bench only; repeatable. One of: {', '.join(BENCHES)}.")
    ] = None,
    events: Annotated[
        int, typer.Option(help="Events at batches of 100; the others take a fixed share of it.", min=1_000)
    ] = 600_000,
    runs: Annotated[int, typer.Option(help="Runs of each; the table shows medians.", min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything found to this file.")] = None,
    quick: Annotated[
        bool,
        typer.Option(help=f"One run of {_QUICK_EVENTS} events, batches of 100: it works; measures nothing."),
    ] = False,
) -> None:
    """Measure the parts and the whole, each as a real process on one real Kafka.

    Ended early (Ctrl-C, SIGTERM), it shows what it has found so far.

    Exit code: 0 measured, 1 a process failed or gave a wrong result, 2 wrong usage, 130 or 143 ended early.
    """
    chosen = list(dict.fromkeys(only or [name for name in BENCHES if name not in _ASKED_FOR]))
    if unknown := [name for name in chosen if name not in BENCHES]:
        raise typer.BadParameter(f"no bench {unknown[0]!r}; there are {', '.join(BENCHES)}", param_hint="--only")
    if quick:
        events, runs = _QUICK_EVENTS, 1
    chosen.sort(key=BENCHES.index)
    console = Console(stderr=True)
    findings, code = _Findings(_tasks(chosen, events, BATCHES_QUICK if quick else BATCHES)), 0
    try:
        with _told(console) as say:
            _measure(chosen, runs, say, findings, quick=quick)
    except (BenchFailed, TooShort) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        raise typer.Exit(1) from None
    except _Terminated:
        code = 128 + signal.SIGTERM
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    results, steps = findings.results(), findings.steps
    latencies = [Latency(name, values_ms) for name, values_ms in findings.latencies.items()]
    if json_file is not None:
        options = {"only": chosen, "events": events, "runs": runs, "quick": quick}
        json_file.write_bytes(
            orjson.dumps(as_json(results, steps, latencies, findings.growth, options), option=orjson.OPT_INDENT_2)
        )
    out = Console()
    print_results(out if out.is_terminal else Console(width=_WIDTH), results, steps, latencies, findings.growth)
    if quick:
        out.print("a quick run: the figures mean nothing")
    if code:
        out.print("ended early: not all runs were made")
        raise typer.Exit(code)


class _Terminated(BaseException):
    """SIGTERM came."""


class _Findings:
    """What was found so far."""

    def __init__(self, tasks: list[_Task]) -> None:
        self.tasks = tasks
        self.runs: list[list[Run]] = [[] for _ in tasks]
        self.steps: StepTable | None = None
        self.latencies: dict[str, list[int]] = {}
        """All that was seen of each way, in milliseconds."""
        self.growth: list[Growth] = []

    def results(self) -> list[Result]:
        """All that was measured at least once."""
        found = zip(self.tasks, self.runs, strict=True)
        return [Result(task.bench, task.variant, task.unit, task.batch, runs) for task, runs in found if runs]


def _measure(chosen: list[str], runs: int, say: Callable[[str], None], findings: _Findings, *, quick: bool) -> None:
    if "profile" in chosen:
        say("profile: timing the steps")
        findings.steps = measure_steps(
            {1: _PROFILE_EVENTS // 10, 100: _PROFILE_EVENTS}, passes=1 if quick else _PROFILE_PASSES
        )
    tasks = findings.tasks
    if tasks or {"latency", "growth"} & set(chosen):
        doing = ""
        with (
            tempfile.TemporaryDirectory(prefix="meterproof-bench-") as folder,
            Rig.opened(Path(folder), lambda text: say(f"{doing}{text}"), quick=quick) as rig,
        ):
            # Whole rounds, so that a disturbance of some seconds does not hit all runs of one bench.
            for run in range(runs):
                for number, task in enumerate(tasks):
                    place = f"[{run * len(tasks) + number + 1}/{runs * len(tasks)}]"
                    doing = f"{place} {task.bench} {task.variant}: "
                    findings.runs[number].append(asyncio.run(task.measure(rig)))
                if "growth" in chosen and run == 0:
                    doing = "growth: "
                    for index in ("memory", "rocksdb"):
                        for identities in SIZES_QUICK if quick else SIZES:
                            findings.growth.append(asyncio.run(measure_growth(rig, index, identities)))
                if "latency" in chosen:
                    doing = "latency: "
                    for found in asyncio.run(measure_latency(rig, seconds=_LATENCY_QUICK_S if quick else _LATENCY_S)):
                        findings.latencies.setdefault(found.name, []).extend(found.values_ms)


def _tasks(chosen: list[str], events: int, batches: Sequence[int]) -> list[_Task]:
    tasks: list[_Task] = []
    for name in chosen:
        if name in {"meter", "sequencer", "asyncio"}:
            tasks += [_batched(name, batch, events) for batch in batches]
        elif name == "bare":
            tasks.append(
                _Task(name, _label(100), "events", 100, lambda rig: measure_bare_loop(rig, batch=100, events=events))
            )
        elif name == "rocksdb":
            tasks.append(
                _Task(
                    name,
                    _label(100),
                    "events",
                    100,
                    lambda rig: measure_sequencer(rig, batch=100, events=events, index="rocksdb"),
                )
            )
        elif name == "naive":
            tasks.append(
                _Task(
                    name,
                    "Faust, the usual way",
                    "events",
                    None,
                    lambda rig: measure_naive(rig, events=int(events * _NAIVE_SHARE)),
                )
            )
        elif name in {"clickhouse", "audit"}:
            tasks.append(_sink(name, events))
        elif name in {"checkpointer", "budgets"}:
            tasks.append(_stage(name, events))
    return tasks


def _batched(name: str, batch: int, events: int) -> _Task:
    count = int(events * _SHARE_OF_EVENTS[batch] * (_METER_SHARE if name == "meter" and batch > 1 else 1))

    def measure(rig: Rig) -> Coroutine[None, None, Run]:
        if name == "meter":
            return measure_meter(rig, batch=batch, events=count)
        return measure_sequencer(rig, batch=batch, events=count, runtime="asyncio" if name == "asyncio" else "faust")

    return _Task(name, _label(batch), "events", batch, measure)


def _sink(name: str, events: int) -> _Task:
    sink: Literal["clickhouse", "audit"] = "clickhouse" if name == "clickhouse" else "audit"
    unit = "rows" if name == "clickhouse" else "lines"
    return _Task(name, _label(100), unit, 100, lambda rig: measure_sink(rig, sink, batch=100, events=events))


def _stage(name: str, events: int) -> _Task:
    stage: Literal["checkpointer", "budgets"] = "checkpointer" if name == "checkpointer" else "budgets"
    return _Task(name, _label(100), "events", 100, lambda rig: measure_stage(rig, stage, batch=100, events=events))


def _label(batch: int) -> str:
    return f"batches of {batch}"


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
