"""`meterproof checkpointer`: run the worker that signs what the logs hold."""

from pathlib import Path
from typing import Annotated

import typer

from meterproof.deployment import DataFolder
from meterproof_stream.commands.options import Bootstrap, Data, Instance, Prefix, RuntimeChoice
from meterproof_stream.commands.running import run_command

WORKER = "checkpointer"
"""Name of the worker: of its consumer group and status file."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Sign what the logs hold.")


@app.callback()
def _checkpointer() -> None:
    """Sign what the logs hold."""


@app.command(epilog="Example: meterproof checkpointer run --data data --key data/keys/log.key")
def run(  # noqa: PLR0917 - one parameter per option
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    instance: Instance = None,
    runtime: RuntimeChoice = None,
    key: Annotated[Path | None, typer.Option(help="The log key; default: the data folder's own.")] = None,
    interval_s: Annotated[
        float, typer.Option(help="Seconds between two checkpoints of a growing log.", min=0.05)
    ] = 1.0,
) -> int:
    """Sign each log's size and root at an interval, until SIGTERM; logs are JSON lines on stderr."""
    from meterproof.log_key import LogKey
    from meterproof_schemas.topics import Topic
    from meterproof_stream.checkpointer import CheckpointLanes
    from meterproof_stream.log_stage import LogStage
    from meterproof_stream.worker_process import run_worker

    log_key = LogKey.load(key or DataFolder(data).log_key)
    return run_worker(
        WORKER,
        Topic.LOG,
        lambda kafka, _, on_failure: LogStage(
            kafka, CheckpointLanes(kafka, log_key), flush_interval_s=interval_s, on_failure=on_failure
        ),
        data=data,
        bootstrap=bootstrap,
        topic_prefix=topic_prefix,
        instance=instance,
        runtime=runtime,
    )


def main(argv: list[str]) -> int:
    """Run the worker that signs what the logs hold."""
    return run_command(app, "meterproof checkpointer", argv)
