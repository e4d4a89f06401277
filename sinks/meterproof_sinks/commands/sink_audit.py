"""`meterproof sink audit …`: the command of the audit worker; `app` is mounted by `meterproof sink`."""

from pathlib import Path
from typing import Annotated

import typer

from meterproof_sinks.commands.options import Audit, Bootstrap, Data, Prefix, partition_numbers

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Write the log into an audit folder.")


@app.callback()
def _audit() -> None:
    """Write the log into an audit folder."""


@app.command(
    epilog="Example: meterproof sink audit run --data data   ·   "
    "meterproof sink audit run --data data --folder /mnt/audit --partitions 0,1 --vkey /etc/meterproof/log.vkey"
)
def run(
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    folder: Audit = None,
    vkey: Annotated[
        Path | None, typer.Option(help="Verifier keys of the logs. Default: DATA/keys/log.vkey, if there.")
    ] = None,
    partitions: Annotated[
        str | None, typer.Option(help="Partitions to write, like 0,1,2. Default: all. One worker per partition.")
    ] = None,
    segment_mib: Annotated[int, typer.Option(help="A segment ends at this size, in MiB.", min=1)] = 256,
    segment_age_h: Annotated[
        float, typer.Option(help="A segment ends at this age, in hours of ingest time; 0.25 is a quarter.", min=0.01)
    ] = 24,
) -> int:
    """Write every accepted record of the log, byte for byte and durably, and its signed checkpoints, until SIGTERM.

    Exit code: 0 stopped as asked, 1 could not start, 70 unexpected error or a disk that refuses, 75 another process
    writes into the folder, or Kafka does not answer, 78 log_diverged: log, signed checkpoint and disk contradict each
    other, or the disk was changed.
    """
    from meterproof_proofs.key_files import NoVerifierKey
    from meterproof_sinks.audit_process import run_audit_process
    from meterproof_sinks.segment_writer import SegmentLimits

    try:
        return run_audit_process(
            data,
            bootstrap=bootstrap,
            topic_prefix=topic_prefix,
            folder=folder,
            vkey=vkey,
            partitions=partition_numbers(partitions),
            limits=SegmentLimits(segment_mib * 1024 * 1024, round(segment_age_h * 3_600_000)),
        )
    except NoVerifierKey as error:
        raise typer.BadParameter(str(error), param_hint="--vkey") from error
