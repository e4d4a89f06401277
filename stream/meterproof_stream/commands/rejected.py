"""`meterproof rejected`: what was refused, and why."""

import asyncio
from collections import deque
from pathlib import Path
from typing import Annotated

import orjson
import typer

from meterproof.deployment import DataFolder
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.reasons import Reason
from meterproof_schemas.rejection import RejectionHeader, decode_rejection
from meterproof_schemas.topics import Topic
from meterproof_stream.commands.running import run_command

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Show refused events and batches."
)


@app.callback()
def group() -> None:
    """Show refused events and batches."""


@app.command(
    "list",
    epilog="Example: meterproof rejected list --data data --reason conflicting_id --json   ·   a refusal can stand "
    "there more than once, since it is written before the log record: partition, offset and line name it",
)
def list_command(  # noqa: PLR0917 - one parameter per option
    partition: Annotated[int | None, typer.Option(help="Only this partition.", min=0)] = None,
    reason: Annotated[Reason | None, typer.Option(help="Only this reason.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest of each partition.", min=1)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    data: Annotated[Path, typer.Option(help="Folder of the deployment on this machine.")] = Path("data"),
    bootstrap: Annotated[str | None, typer.Option(help="Kafka's address, host:port.")] = None,
    topic_prefix: Annotated[str | None, typer.Option("--prefix", help="Prefix of the deployment's topics.")] = None,
) -> None:
    """List refusals, oldest first. Payloads are not shown: they stay on the topic."""
    kafka = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
    for header in asyncio.run(_read(kafka, partition, reason, limit)):
        if as_json:
            print(orjson.dumps(header.model_dump(exclude_none=True)).decode())
        else:
            line = "whole batch" if header.line is None else f"line {header.line}"
            producer = header.producer or "unverified producer"
            print(
                f"{format_instant_ms(header.append_ms)}  p{header.partition}@{header.offset} {line}  {header.reason}  "
                f"{producer}: {header.detail}"
            )


async def _read(
    kafka: KafkaSettings, partition: int | None, reason: Reason | None, limit: int
) -> list[RejectionHeader]:
    from meterproof.kafka.reader import PartitionReader
    from meterproof.kafka.topics import partitions_of

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


def main(argv: list[str]) -> int:
    """Show refused events and batches with their reasons."""
    return run_command(app, "meterproof rejected", argv)
