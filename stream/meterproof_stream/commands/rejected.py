"""`meterproof rejected`: what was refused, and why; and offering it again once the cause is repaired."""

import asyncio
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from meterproof.command_options import Bootstrap, Data, Prefix
from meterproof.deployment import DataFolder
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.reasons import Reason
from meterproof_schemas.rejection import RejectionHeader, decode_rejection
from meterproof_schemas.topics import Topic
from meterproof_stream.commands.running import run_command

if TYPE_CHECKING:
    from meterproof_stream.refused_replay import Replay

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Show refused events and batches, or offer them again.",
)


@app.callback()
def group() -> None:
    """Show refused events and batches, or offer them again."""


@app.command(
    "list",
    epilog="Example: meterproof rejected list --data data --reason conflicting_id --json   ·   a refusal can stand "
    "there more than once, since it is written before the log record: partition, offset and line name it",
)
def list_command(
    partition: Annotated[int | None, typer.Option(help="Only this partition.", min=0)] = None,
    reason: Annotated[Reason | None, typer.Option(help="Only this reason.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest of each partition.", min=1)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> None:
    """List refusals, oldest first. Payloads are not shown: they stay on the topic."""
    kafka = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
    headers = asyncio.run(_read(kafka, partition, reason, limit))
    if not headers:
        sys.stderr.write("nothing refused\n" if reason is None else f"nothing refused for {reason.value}\n")
    for header in headers:
        if as_json:
            print(orjson.dumps(header.model_dump(exclude_none=True)).decode())
        else:
            print(refusal_text(header))


def refusal_text(header: RejectionHeader) -> str:
    """One line for people; of an id that was sent with other content, both contents by their digests."""
    line = "whole batch" if header.line is None else f"line {header.line}"
    producer = header.producer or "unverified producer"
    first = "" if header.first_digest is None else f" (first {header.first_digest}, now {header.digest})"
    return (
        f"{format_instant_ms(header.append_ms)}  p{header.partition}@{header.offset} {line}  {header.reason}  "
        f"{producer}: {header.detail}{first}"
    )


async def _read(
    kafka: KafkaSettings, partition: int | None, reason: Reason | None, limit: int
) -> list[RejectionHeader]:
    from meterproof.kafka.reader import PartitionReader
    from meterproof.kafka.topic_descriptions import partitions_of

    topic = kafka.topic(Topic.REJECTED)
    partitions = range(await partitions_of(kafka, topic)) if partition is None else [partition]
    found: list[RejectionHeader] = []
    for number in partitions:
        newest: deque[RejectionHeader] = deque(maxlen=limit)
        async with PartitionReader(kafka, topic, number) as reader:
            async for records in reader.read(*await reader.bounds()):
                for record in records:
                    try:
                        header = decode_rejection(record.value).header
                    except InvalidRecord:
                        continue
                    if reason is None or header.reason is reason:
                        newest.append(header)
        found.extend(newest)
    found.sort(key=lambda header: (header.append_ms, header.partition, header.offset))
    return found[-limit:]


@app.command(
    "replay",
    epilog="Example: meterproof rejected replay --data data --dry-run   ·   then without --dry-run; done twice, it "
    "sends nothing the second time",
)
def replay_command(
    partition: Annotated[int | None, typer.Option(help="Only this partition.", min=0)] = None,
    reason: Annotated[
        list[Reason] | None,
        typer.Option(
            help="Only what was refused for this; repeatable. Default: unknown_key, key_not_allowed, unknown_meter.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would happen.")] = False,
    registry: Annotated[Path | None, typer.Option(help="Key registry; default: the data folder's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per partition and line.")] = False,
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> None:
    """Offer refused batches to the sequencer again, signed bytes as they came, once the cause is repaired.

    Only batches of which something would be accepted now are sent. Events that the log has already are dropped there
    as duplicates. Time goes on: events older than the horizon stay refused (too_late).

    Exit code: 0 nothing stays refused for these reasons, 1 something does (it is told how much and why) or Kafka is at
    fault, 2 usage.
    """
    from meterproof_stream.refused_replay import REPAIRABLE

    folder = DataFolder(data)
    kafka = folder.kafka_settings(bootstrap, topic_prefix)
    reasons = tuple(reason or REPAIRABLE)
    replays = asyncio.run(_replay(kafka, partition, registry or folder.registry, reasons, dry_run=dry_run))
    for one in replays:
        if as_json:
            print(orjson.dumps(one.as_json()).decode())
        elif one.refused_batches:
            print(
                f"p{one.partition}  {one.refused_batches} refused batches, {one.offered_batches} "
                f"{'to send' if dry_run else 'sent'} again: {one.accepted_events} events will be accepted, "
                f"{one.counted_before} are counted already"
            )
            for effect, count in one.corrections.items():
                print(f"    {count} of them are corrections with the effect: {effect}")
            for cause, count in one.refused_again.items():
                print(f"    {count} will be refused again: {cause}")
            if one.unavailable:
                offsets = ", ".join(map(str, one.unavailable))
                print(f"    {len(one.unavailable)} are gone: source offsets {offsets}; let their producers send again")
    if not any(one.refused_batches for one in replays):
        sys.stderr.write(f"nothing refused for {', '.join(sorted(reasons))}; others by --reason\n")
    if not all(one.complete for one in replays):
        raise typer.Exit(1)


async def _replay(
    kafka: KafkaSettings, partition: int | None, registry: Path, reasons: tuple[Reason, ...], *, dry_run: bool
) -> "list[Replay]":
    from meterproof.kafka.topic_descriptions import partitions_of
    from meterproof_stream.refused_replay import replay_refused
    from meterproof_stream.registry_file import RegistryFile

    keys = RegistryFile(registry).current
    partitions = range(await partitions_of(kafka, kafka.topic(Topic.BATCHES))) if partition is None else [partition]
    return [
        await replay_refused(
            kafka, number, registry=keys, reasons=reasons, now_ms=time.time_ns() // 1_000_000, dry_run=dry_run
        )
        for number in partitions
    ]


def main(argv: list[str]) -> int:
    """Show what was refused and why, or offer it again once the cause is repaired."""
    return run_command(app, "meterproof rejected", argv)
