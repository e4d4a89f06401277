"""`meterproof checkpointer`: run the worker that signs what the logs hold."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from meterproof.deployment import DataFolder
from meterproof_stream.commands.leaving import add_leave
from meterproof_stream.commands.running import run_command
from meterproof_stream.commands.worker_options import WorkerOptions, with_worker_options
from meterproof_stream.errors import NothingRemembers

WORKER = "checkpointer"
"""Name of the worker: of its consumer group and status file."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Sign what the logs hold.")


@app.callback()
def _checkpointer() -> None:
    """Sign what the logs hold."""


@app.command(epilog="Example: meterproof checkpointer run --data data --key data/keys/log.key")
@with_worker_options
def run(
    options: WorkerOptions,
    key: Annotated[
        list[Path] | None,
        typer.Option(help="A log key; give two while one replaces the other. Default: the data folder's own."),
    ] = None,
    interval_s: Annotated[
        float, typer.Option(help="Seconds between two checkpoints of a growing log.", min=0.05)
    ] = 0.5,
    witness_dir: Annotated[
        Path | None,
        typer.Option(help="Folder on another volume that remembers every checkpoint before it is published."),
    ] = None,
    audit_dir: Annotated[
        Path | None, typer.Option(help="Audit folder to compare with before signing. Default: DATA/audit, if there.")
    ] = None,
    production: Annotated[
        bool,
        typer.Option(
            envvar="METERPROOF_PRODUCTION",
            help="Refuse to sign unless an audit folder or a witness folder remembers what was signed.",
        ),
    ] = False,
) -> int:
    """Sign each log's size and root at an interval, until SIGTERM; logs are JSON lines on stderr.

    Before it signs, it compares the log with the largest checkpoints that usage.checkpoints, the audit folder and the
    witness folder have. Exit code 78 with log_diverged: the log is older or another than what was signed.
    """
    from meterproof.log_key import LogKeys
    from meterproof_schemas.topics import Topic
    from meterproof_stream.checkpointer import CheckpointLanes
    from meterproof_stream.log_stage import LogStage
    from meterproof_stream.signed_before import AuditMemory
    from meterproof_stream.witness_folder import WitnessFolder
    from meterproof_stream.worker_process import run_worker

    folder = DataFolder(options.data)
    keys = LogKeys.load(key or folder.log_keys)
    audit = audit_dir or folder.audit
    if audit_dir is not None and not audit.is_dir():
        message = f"{audit}: no such folder; nothing can be compared with it"
        raise typer.BadParameter(message, param_hint="--audit-dir")
    if production and witness_dir is None and not audit.is_dir():
        raise NothingRemembers(audit)
    witness = None if witness_dir is None else WitnessFolder(witness_dir)
    return run_worker(
        WORKER,
        Topic.LOG,
        lambda kafka, _, on_failure: LogStage(
            kafka,
            CheckpointLanes(kafka, keys, witness=witness, memories=[AuditMemory(audit)]),
            flush_interval_s=interval_s,
            on_failure=on_failure,
        ),
        **asdict(options),
    )


add_leave(app, WORKER)


def main(argv: list[str]) -> int:
    """Run the worker that signs what the logs hold."""
    return run_command(app, "meterproof checkpointer", argv)
