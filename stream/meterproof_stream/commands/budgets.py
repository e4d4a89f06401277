"""`meterproof budgets`: run the worker that adds up spend and alerts; show what has been spent."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from meterproof.command_options import AsJson, Bootstrap, Data, Prefix
from meterproof.deployment import DataFolder
from meterproof_stream.commands.leaving import add_leave
from meterproof_stream.commands.running import run_command
from meterproof_stream.commands.worker_options import WorkerOptions, with_worker_options

WORKER = "budgets"
"""Name of the worker: of its consumer group and status file."""

_WIDE = 2_000
"""Columns of a table that nothing is cut off from."""

BudgetsFile = Annotated[Path | None, typer.Option("--budgets", help="Budget file; default: the data folder's own.")]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Add up spend and alert at thresholds.")


@app.callback()
def _budgets() -> None:
    """Add up spend and alert at thresholds."""


@app.command(epilog="Example: meterproof budgets run --data data --budgets data/budgets.json")
@with_worker_options
def run(
    options: WorkerOptions,
    budgets: BudgetsFile = None,
    interval_s: Annotated[float, typer.Option(help="Seconds between two writes of changed sums.", min=0.02)] = 0.1,
) -> int:
    """Keep the spend of every scope per window, and alert at thresholds, until SIGTERM; logs: JSON lines on stderr."""
    from meterproof_schemas.budget import parse_budgets
    from meterproof_schemas.topics import Topic
    from meterproof_stream.budgets import BudgetLanes
    from meterproof_stream.log_stage import LogStage
    from meterproof_stream.worker_process import run_worker

    parsed = parse_budgets((budgets or DataFolder(options.data).budgets).read_bytes())
    return run_worker(
        WORKER,
        Topic.LOG,
        lambda kafka, _, on_failure: LogStage(
            kafka, BudgetLanes(kafka, parsed, on_failure), flush_interval_s=interval_s, on_failure=on_failure
        ),
        **asdict(options),
    )


add_leave(app, WORKER)


@app.command(
    "accept-gap",
    epilog='Example: meterproof budgets accept-gap --data data --reason "new limits from May on" --who "Ada L."   ·   '
    "exit codes: 0 accepted, 1 nothing to accept",
)
def accept_gap_command(
    reason: Annotated[str, typer.Option(help="Why; stands in usage.budget-state as long as these budgets.")],
    who: Annotated[str, typer.Option(help="Who decided; stands there too.")],
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    budgets: BudgetsFile = None,
    as_json: AsJson = False,
) -> None:
    """Let new or changed budgets be counted from where trimmed logs begin: what was spent before is not in them.

    Stop the worker first. Windows that may lack something are shown as `partial`; alerts of those come late or never.
    """
    import asyncio

    import orjson

    from meterproof_schemas.budget import parse_budgets
    from meterproof_stream.budget_gap import accept_gap

    parsed = parse_budgets((budgets or DataFolder(data).budgets).read_bytes())
    kafka = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
    for gap in asyncio.run(accept_gap(kafka, parsed, who=who, why=reason)):
        if as_json:
            print(orjson.dumps(gap.as_json()).decode())
        else:
            print(
                f"partition {gap.partition}: counted from position {gap.position}, behind log offset {gap.log_offset}"
            )


@app.command(
    epilog="Example: meterproof budgets show --data data --scope customer --json   ·   spend is the sum over all logs, "
    "as far as the worker has added it up: with --json, `logs` says up to which position of each"
)
def show(
    budget: Annotated[str | None, typer.Option(help="Only the budget of this name.")] = None,
    scope: Annotated[str | None, typer.Option(help="Only this scope: agent, customer, team …")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this subject, or a prefix followed by *.")] = None,
    final: Annotated[bool, typer.Option("--final", help="Also windows that nothing can change any more.")] = False,
    as_json: AsJson = False,
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    budgets: BudgetsFile = None,
) -> None:
    """Show what every scope has spent of its budgets, per window; read from Kafka alone, exact to the last digit."""
    import asyncio

    import orjson
    from rich.console import Console
    from rich.table import Table

    from meterproof_schemas.budget import parse_budgets
    from meterproof_schemas.instant import format_instant_us
    from meterproof_schemas.keys import matches
    from meterproof_schemas.quantity import plain
    from meterproof_stream.budget_report import read_budget_lines

    parsed = parse_budgets((budgets or DataFolder(data).budgets).read_bytes())
    kafka = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
    lines = [
        line
        for line in asyncio.run(read_budget_lines(kafka, parsed))
        if (final or not line.final)
        and budget in {None, line.budget.name}
        and scope in {None, line.key.scope}
        and (subject is None or matches((subject,), line.key.subject))
    ]
    if as_json:
        for line in lines:
            print(orjson.dumps(line.as_json()).decode())
        return
    if not lines:
        print("Nothing has been spent yet, or the budgets worker has not added it up: is it running?")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("budget", "of", "window", "begins"):
        table.add_column(heading, no_wrap=True)
    for heading in ("used", "limit", "%"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("in", "alerted at %", ""):
        table.add_column(heading, no_wrap=True)
    for line in lines:
        key, start = line.key, format_instant_us(line.key.start_us)[:16] + "Z"
        table.add_row(
            line.budget.name,
            f"{key.scope} {key.subject}",
            key.window if key.zone == "UTC" else f"{key.window} {key.zone}",
            start,
            plain(line.used),
            line.budget.limit,
            plain(line.percent),
            line.budget.unit,
            " ".join(line.alerts),
            " ".join(word for word, holds in (("final", line.final), ("partial", line.partial)) if holds),
        )
    # A line of its own per row, however wide: what is cut off cannot be looked for.
    Console(width=_WIDE, highlight=False, markup=False).print(table)


def main(argv: list[str]) -> int:
    """Run the worker that adds up spend and alerts; show what has been spent."""
    return run_command(app, "meterproof budgets", argv)
