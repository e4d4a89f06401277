"""`meterproof budgets`: run the worker that adds up spend and alerts."""

from pathlib import Path
from typing import Annotated

import typer

from meterproof.deployment import DataFolder
from meterproof_stream.commands.leaving import add_leave
from meterproof_stream.commands.options import Bootstrap, Data, Instance, LeaveOnStop, Prefix, RuntimeChoice
from meterproof_stream.commands.running import run_command

WORKER = "budgets"
"""Name of the worker: of its consumer group and status file."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Add up spend and alert at thresholds.")


@app.callback()
def _budgets() -> None:
    """Add up spend and alert at thresholds."""


@app.command(epilog="Example: meterproof budgets run --data data --budgets data/budgets.json")
def run(  # noqa: PLR0917 - one parameter per option
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    instance: Instance = None,
    runtime: RuntimeChoice = None,
    leave: LeaveOnStop = None,
    budgets: Annotated[Path | None, typer.Option(help="Budget file; default: the data folder's own.")] = None,
    interval_s: Annotated[float, typer.Option(help="Seconds between two writes of changed sums.", min=0.02)] = 0.1,
) -> int:
    """Keep each agent's spend per window and alert at thresholds, until SIGTERM; logs are JSON lines on stderr."""
    from meterproof_schemas.budget import parse_budgets
    from meterproof_schemas.topics import Topic
    from meterproof_stream.budgets import BudgetLanes
    from meterproof_stream.log_stage import LogStage
    from meterproof_stream.worker_process import run_worker

    parsed = parse_budgets((budgets or DataFolder(data).budgets).read_bytes())
    return run_worker(
        WORKER,
        Topic.LOG,
        lambda kafka, _, on_failure: LogStage(
            kafka, BudgetLanes(kafka, parsed, on_failure), flush_interval_s=interval_s, on_failure=on_failure
        ),
        data=data,
        bootstrap=bootstrap,
        topic_prefix=topic_prefix,
        instance=instance,
        runtime=runtime,
        leave_on_stop=leave,
    )


add_leave(app, WORKER)


def main(argv: list[str]) -> int:
    """Run the worker that adds up spend and alerts."""
    return run_command(app, "meterproof budgets", argv)
