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
from tests.bench.result import Result
from tests.bench.steps import StepTable

RATIO_TARGET: Final = 15
"""The sequencer at batches of 100 must be at least this many times as fast as Faust the usual way."""


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """How many times as fast as the naive app the sequencer is, per CPU second, by batch size."""
    naive = next((result for result in results if result.bench == "naive"), None)
    if naive is None:
        return {}
    return {
        f"sequencer_{result.batch}_to_naive": round(
            result.median("events_per_cpu_s") / naive.median("events_per_cpu_s"), 1
        )
        for result in results
        if result.bench == "sequencer"
    }


def as_json(results: Sequence[Result], steps: StepTable | None, options: dict[str, Any]) -> dict[str, Any]:
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
    }


def print_results(console: Console, results: Sequence[Result], steps: StepTable | None) -> None:
    """Print what was found."""
    if results:
        console.print(_result_table(results))
    if steps is not None:
        console.print(_step_table(steps))
    for name, ratio in ratios(results).items():
        batch = name.split("_")[1]
        verdict = ""
        if batch == "100":
            verdict = f" (target {RATIO_TARGET}: {'reached' if ratio >= RATIO_TARGET else 'MISSED'})"
        console.print(f"sequencer at batches of {batch} : naive Faust app = {ratio} : 1 per CPU second{verdict}")


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
