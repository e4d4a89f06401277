"""The table for people, the ratios that matter, and the JSON for programs."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from meterproof_local.jars import kafka_version
from tests.bench.figure import Figure
from tests.bench.findings import Findings
from tests.bench.growth import SLOWER_TARGET, Growth
from tests.bench.latency import OFFERED_PER_S, P99_TARGET_MS, Latency
from tests.bench.result import Result
from tests.bench.steps import StepTable

_OURS: Final = ("sequencer", "asyncio", "rocksdb")
_OTHERS: Final = ("naive", "quix", "kafka-streams", "bare")
TARGETS: Final = {"naive": 30.0, "quix": 3.0, "kafka_streams_1": 1.8, "kafka_streams_100": 1.3}
"""How many times as fast as each of the others the sequencer at batches of 100 must be, per CPU second."""
_RUNTIMES: Final = ("sequencer", "asyncio")
"""Both are held to them."""
_WHOLE: Final = 1_000
"""Figures from here on are shown without fractions."""


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """How many times as fast as each of the others the sequencer is, per CPU second: `sequencer_100_to_naive`, ….

    The bare loop stands only beside the same size of batches.
    """
    found: dict[str, float] = {}
    for ours in results:
        for other in results:
            if ours.bench not in _OURS or other.bench not in _OTHERS:
                continue
            if other.bench == "bare" and ours.batch != other.batch:
                continue
            ratio = ours.median("events_per_cpu_s") / other.median("events_per_cpu_s")
            found[f"{ours.bench}_{ours.batch}_to_{_short(other)}"] = float(f"{ratio:.3g}")
    return found


def _short(other: Result) -> str:
    """How it is called in a ratio: with its batch only where it has several."""
    return f"kafka_streams_{other.batch}" if other.bench == "kafka-streams" else other.bench


def verdicts(results: Sequence[Result]) -> dict[str, bool]:
    """Whether each target that something was measured for is reached."""
    found = ratios(results)
    return {
        name: found[name] >= target
        for runtime in _RUNTIMES
        for other, target in TARGETS.items()
        if (name := f"{runtime}_100_to_{other}") in found
    }


def as_json(findings: Findings, options: dict[str, Any]) -> dict[str, Any]:
    """Everything found, for programs."""
    return {
        "version": 1,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "kafka": kafka_version(),
            "faust": version("faust-streaming"),
        },
        "options": options,
        **findings.as_json(),
        "ratios": ratios(findings.measured),
        "ratio_targets_reached": verdicts(findings.measured),
    }


def print_findings(console: Console, findings: Findings) -> None:
    """Print what was found, and what could not be measured on this machine."""
    results = findings.measured
    if results:
        console.print(_result_table(results))
    if findings.steps is not None:
        console.print(_step_table(findings.steps))
    if findings.latencies:
        console.print(_latency_table(findings.latencies))
    if findings.growth:
        console.print(_growth_table(findings.growth))
    if findings.figures:
        console.print(_figure_table(findings.figures))
    if ratios(results):
        console.print(_ratio_table(results))
    for name, reached in verdicts(results).items():
        target = TARGETS[name.partition("_to_")[2]]
        console.print(f"{name}: target {target:g} {'reached' if reached else 'MISSED'}", highlight=False)
    for bench, reason in findings.not_here.items():
        console.print(f"{bench}: not measured: {reason}", highlight=False, markup=False)


def _ratio_table(results: Sequence[Result]) -> Table:
    found = ratios(results)
    others = [_short(result) for result in results if result.bench in _OTHERS]
    table = Table(box=SIMPLE, title="how many times as fast as each of the others, per CPU second")
    table.add_column("")
    for heading in others:
        table.add_column(heading, justify="right")
    for result in results:
        if result.bench in _OURS:
            cells = (found.get(f"{result.bench}_{result.batch}_to_{other}", "") for other in others)
            table.add_row(f"{result.bench}, {result.variant}", *map(str, cells))
    return table


def _latency_table(latencies: Sequence[Latency]) -> Table:
    table = Table(
        box=SIMPLE, title=f"latency at {OFFERED_PER_S:,} events/s offered, ms (target: p99 < {P99_TARGET_MS})"
    )
    table.add_column("way")
    for heading in ("seen", "p50", "p99", "max"):
        table.add_column(heading, justify="right")
    for latency in latencies:
        figures = (latency.percentile_ms(50), latency.percentile_ms(99), max(latency.values_ms))
        table.add_row(latency.name, f"{len(latency.values_ms):,}", *(f"{figure:,.0f}" for figure in figures))
    return table


def _result_table(results: Sequence[Result]) -> Table:
    table = Table(box=SIMPLE, title="medians of the runs; from 20 % to 97 % of the output")
    table.add_column("bench", no_wrap=True)
    table.add_column("load", no_wrap=True)
    for heading in ("per s", "per CPU s", "µs of CPU", "of a core", "peak MiB", "by quarter", "runs", "spread"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        speeds = [run.events_per_cpu_s for run in result.runs]
        middle = result.median("events_per_cpu_s")
        table.add_row(
            result.bench,
            result.variant,
            f"{result.median('events_per_s'):,.0f}",
            f"{middle:,.0f} {result.unit}",
            f"{1e6 / middle:,.2f}",
            f"{result.median('cpu_share'):.0%}",
            f"{result.median('peak_mib'):,.0f}",
            " ".join(map(str, result.quarters_mib)),
            str(len(result.runs)),
            f"±{(max(speeds) - min(speeds)) / 2 / middle:.0%}",
        )
    return table


def _step_table(steps: StepTable) -> Table:
    table = Table(box=SIMPLE, title="the sequencer's own steps, without broker and runtime: µs per event")
    table.add_column("step")
    for batch in steps.batches:
        table.add_column(f"batches of {batch}", justify="right")
    for step in steps.names:
        style = "bold" if step in steps.totals else None
        table.add_row(step, *(f"{steps.us_per_event[batch][step]:.2f}" for batch in steps.batches), style=style)
    return table


def _figure_table(figures: Sequence[Figure]) -> Table:
    table = Table(box=SIMPLE, title="single figures")
    table.add_column("bench")
    table.add_column("figure")
    for heading in ("found", "target", ""):
        table.add_column(heading, justify="right")
    for one in figures:
        target = "" if one.target is None else f"{one.target[0]} {one.target[1]:,g} {one.unit}"
        verdict = {None: "", True: "reached", False: "MISSED"}[one.reached]
        table.add_row(
            one.bench, one.name, f"{one.value:,.{0 if one.value >= _WHOLE else 1}f} {one.unit}", target, verdict
        )
    return table


def _growth_table(growth: Sequence[Growth]) -> Table:
    title = f"the pure class on an index that holds many identities (target: at most {SLOWER_TARGET:g} times slower)"
    table = Table(box=SIMPLE, title=title)
    table.add_column("index")
    headings = (
        "events per CPU second",
        "times slower",
        "µs to add one",
        "of the thread",
        "peak MiB",
        "disk MiB",
        "start s",
    )
    for heading in ("identities", *headings):
        table.add_column(heading, justify="right")
    for one in growth:
        first = next(each for each in growth if each.index == one.index)
        if one.events_per_cpu_s is None:
            table.add_row(one.index, f"{one.identities:,}", f"not measured: {one.why}")
            continue
        slower = (first.events_per_cpu_s or one.events_per_cpu_s) / one.events_per_cpu_s
        figures = (f"{one.events_per_cpu_s:,.0f}", f"{slower:.2f}", f"{one.add_us:.1f}", f"{one.add_thread_us:.1f}")
        taken = (f"{one.peak_mib:,}", f"{one.disk_mib:,}", f"{one.start_s:.2f}")
        table.add_row(one.index, f"{one.identities:,}", *figures, *taken)
    return table
