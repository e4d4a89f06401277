"""`meterproof sequencer`: run the sequencer, and decide what it must not decide alone."""

import asyncio
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer

from meterproof.command_options import AsJson, Bootstrap, Data, Prefix
from meterproof.deployment import DataFolder
from meterproof_stream.commands.leaving import add_leave
from meterproof_stream.commands.running import run_command
from meterproof_stream.commands.worker_options import WorkerOptions, with_worker_options
from meterproof_stream.index_kind import IndexKind
from meterproof_stream.operator import Decision, accept_gap, quarantine

WORKER = "sequencer"
"""Name of the worker: of its consumer group, status file and cache folder."""

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Turn signed batches into the log."
)

Registry = Annotated[Path | None, typer.Option(help="Key registry; by default the data folder's own.")]
Partition = Annotated[int, typer.Argument(help="Partition of usage.batches.", min=0)]
Reason = Annotated[str, typer.Option(help="Why; stands in the log for ever.")]
Who = Annotated[str, typer.Option(help="Who decided; stands in the log for ever.")]


@app.command(
    epilog="Example: meterproof sequencer run --data data --instance sequencer-0   ·   exit codes: 0 stopped as asked, "
    "1 could not start, 70 unexpected error, 75 try again, 78 log_diverged, source_diverged, source_lost"
)
@with_worker_options
def run(
    options: WorkerOptions,
    registry: Registry = None,
    index: Annotated[
        IndexKind | None,
        typer.Option(
            help="Where identities are kept: memory (default; horizons up to 24 hours), or rocksdb (longer horizons, "
            "more events, quick starts) in DATA/cache/INSTANCE/index, a cache of the log.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Run the sequencer until SIGTERM; logs are JSON lines on stderr."""
    from meterproof.kafka.settings import KafkaSettings
    from meterproof_schemas.topics import Topic
    from meterproof_stream.refusal_watch import RefusalWatch
    from meterproof_stream.sequencer import Sequencer
    from meterproof_stream.settings import WorkerSettings
    from meterproof_stream.worker_process import OnFailure, run_worker

    def make_engine(kafka: KafkaSettings, settings: WorkerSettings, on_failure: OnFailure) -> Sequencer:
        return Sequencer(
            kafka,
            settings.registry_path,
            random_bytes=secrets.token_bytes,
            on_failure=on_failure,
            index_dir=settings.index_dir,
            refusals=RefusalWatch(after_s=settings.refused_after_s),
        )

    return run_worker(
        WORKER,
        Topic.BATCHES,
        make_engine,
        registry=registry,
        index=index,
        **asdict(options),
    )


@app.command(
    "quarantine",
    epilog='Example: meterproof sequencer quarantine 3 18227 --reason "crashes the parser, ticket 4711" --who "Ada L."',
)
def quarantine_command(
    partition: Partition,
    offset: Annotated[int, typer.Argument(help="Offset of the record; must be the one that is due.", min=0)],
    reason: Reason,
    who: Who,
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Set the record that is due aside, unjudged: the log says who decided it and why. A running sequencer restarts."""
    kafka = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
    decision = asyncio.run(quarantine(kafka, partition, offset, who=who, why=reason, random_bytes=secrets.token_bytes))
    _tell(decision, as_json=as_json)


@app.command(
    "accept-gap",
    epilog='Example: meterproof sequencer accept-gap 3 --reason "retention was one day by mistake" --who "Ada L."',
)
def accept_gap_command(
    partition: Partition,
    reason: Reason,
    who: Who,
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Record the loss of source records that were deleted before they were sequenced, so that the rest can go on."""
    kafka = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
    decision = asyncio.run(accept_gap(kafka, partition, who=who, why=reason, random_bytes=secrets.token_bytes))
    _tell(decision, as_json=as_json)


def _tell(decision: Decision, *, as_json: bool) -> None:
    if as_json:
        print(orjson.dumps(decision.as_json()).decode())
    else:
        print(
            f"recorded in the log of partition {decision.partition} at offset {decision.log_offset}: {decision.kind}, "
            f"source offsets {decision.source_offset} to {decision.source_offset + decision.source_count - 1}"
        )


add_leave(app, WORKER)


def main(argv: list[str]) -> int:
    """Run the sequencer that turns signed batches into the log; quarantine a record, accept a gap."""
    return run_command(app, "meterproof sequencer", argv)
