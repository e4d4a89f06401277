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
from tests.bench.growth import SLOWER_TARGET, Growth
from tests.bench.latency import OFFERED_PER_S, P99_TARGET_MS, Latency
from tests.bench.result import Result
from tests.bench.steps import StepTable

RATIO_TARGET: Final = 30
"""The sequencer at batches of 100 must be at least this many times as fast as Faust the usual way."""


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """How many times as fast as the naive app, and as the bare loop, the sequencer is, per CPU second.

    By batch size; the bare loop runs at batches of 100 only.
    """
    found: dict[str, float] = {}
    for other, digits in (("naive", 1), ("bare", 2)):
        base = next((result for result in results if result.bench == other), None)
        for result in results:
            if base is None or result.bench not in {"sequencer", "asyncio", "rocksdb"}:
                continue
            if other == "bare" and result.batch != base.batch:
                continue
            if other == "naive" and result.bench != "sequencer":
                continue
            ratio = result.median("events_per_cpu_s") / base.median("events_per_cpu_s")
            found[f"{result.bench}_{result.batch}_to_{other}"] = round(ratio, digits)
    return found


def as_json(
    results: Sequence[Result],
    steps: StepTable | None,
    latencies: Sequence[Latency],
    growth: Sequence[Growth],
    options: dict[str, Any],
) -> dict[str, Any]:
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
        "results": [result.as_json() for result in results],
        "ratios": ratios(results),
        "steps": None if steps is None else steps.as_json(),
        "latencies": [latency.as_json() for latency in latencies],
        "growth": [one.as_json() for one in growth],
    }


def print_results(
    console: Console,
    results: Sequence[Result],
    steps: StepTable | None,
    latencies: Sequence[Latency],
    growth: Sequence[Growth],
) -> None:
    """Print what was found."""
    if results:
        console.print(_result_table(results))
    if steps is not None:
        console.print(_step_table(steps))
    if latencies:
        console.print(_latency_table(latencies))
    if growth:
        console.print(_growth_table(growth))
    for name, ratio in ratios(results).items():
        bench, batch, _, other = name.split("_")
        verdict = ""
        if other == "naive" and batch == "100":
            verdict = f" (target {RATIO_TARGET}: {'reached' if ratio >= RATIO_TARGET else 'MISSED'})"
        than = "naive Faust app" if other == "naive" else "bare loop"
        console.print(f"{bench} at batches of {batch} : {than} = {ratio} : 1 per CPU second{verdict}")


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
    for heading in ("per second", "per CPU second", "µs of CPU", "of a core", "peak MiB", "runs", "spread"):
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


def _growth_table(growth: Sequence[Growth]) -> Table:
    title = f"the pure class on an index that holds many identities (target: at most {SLOWER_TARGET:g} times slower)"
    table = Table(box=SIMPLE, title=title)
    table.add_column("index")
    for heading in ("identities", "events per CPU second", "times slower", "peak MiB"):
        table.add_column(heading, justify="right")
    for one in growth:
        first = next(each for each in growth if each.index == one.index)
        if one.events_per_cpu_s is None:
            table.add_row(one.index, f"{one.identities:,}", f"not measured: {one.why}", "", "")
            continue
        slower = (first.events_per_cpu_s or one.events_per_cpu_s) / one.events_per_cpu_s
        figures = (f"{one.events_per_cpu_s:,.0f}", f"{slower:.2f}", f"{one.peak_mib:,}")
        table.add_row(one.index, f"{one.identities:,}", *figures)
    return table
