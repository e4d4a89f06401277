"""`meterproof log`: what an operator does to the logs themselves."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from meterproof.command_line import run_app
from meterproof.deployment import DataFolder
from meterproof.errors import MeterError
from meterproof.kafka.errors import KafkaProblem
from meterproof_proofs.key_files import NoVerifierKey
from meterproof_schemas.errors import ContractError
from meterproof_sinks.audit_errors import AuditError
from meterproof_sinks.commands.options import Audit, Bootstrap, Data, Prefix, Url

if TYPE_CHECKING:
    from meterproof.kafka.settings import KafkaSettings
    from meterproof_proofs.note import Verifier
    from meterproof_sinks.log_trim import Readers, TrimPlan

_HOUR_MS = 3_600_000
_PROGRESS = "SELECT log, max(log_offset) FROM sink_progress GROUP BY log"

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look after the logs themselves.")


@app.callback()
def _log() -> None:
    """Look after the logs themselves."""


@app.command(
    epilog="Example: meterproof log trim --data data --dry-run   ·   meterproof log trim --data data "
    "--audit /mnt/audit --url https://clickhouse:8443 --partition 3"
)
def trim(
    data: Data = Path("data"),
    partition: Annotated[int | None, typer.Option(help="Only this log.", min=0)] = None,
    audit: Audit = None,
    vkey: Annotated[Path | None, typer.Option(help="Verifier keys of the logs; default: the data folder's.")] = None,
    url: Url = None,
    clickhouse: Annotated[bool, typer.Option(help="Whether ClickHouse must have what is deleted.")] = True,
    budgets: Annotated[bool, typer.Option(help="Whether budgets must have what is deleted.")] = True,
    ignore_group: Annotated[
        list[str] | None, typer.Option(help="A consumer group of others that may lose records; repeatable.")
    ] = None,
    margin_hours: Annotated[int, typer.Option(help="Kept beyond the horizon.", min=0)] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per log and line.")] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> None:
    """Delete the beginning of usage.log as far as every reader is behind it and the audit folder holds every byte.

    Afterwards a log begins at the record of a signed checkpoint. A sequencer, a checkpointer and sinks go on as before;
    an empty ClickHouse can no longer be filled from Kafka, only from the audit folder, and other budgets are counted
    from what is left, if at all (`meterproof budgets accept-gap`). Consumer groups of others hold back what they have
    not read; a reader that commits no offset is known to nobody.

    Exit code: 0 trimmed, or nothing is old enough; 1 refused for some log, or Kafka is at fault; 2 usage.
    """
    from meterproof_proofs.key_files import read_verifiers
    from meterproof_sinks.log_trim import Readers

    folder = DataFolder(data)
    progress = _progress(data, url) if clickhouse else None
    readers = Readers(audit or folder.audit, progress, budgets, ignore_group or ())
    kafka = folder.kafka_settings(bootstrap, topic_prefix)
    plans = asyncio.run(
        _trim(
            kafka,
            partition,
            readers,
            read_verifiers(vkey or folder.vkeys),
            margin_ms=margin_hours * _HOUR_MS,
            dry_run=dry_run,
        )
    )
    for plan in plans:
        if as_json:
            print(orjson.dumps(plan.as_json()).decode())
            continue
        if plan.beginning is None:
            print(f"p{plan.partition}  {'REFUSED' if plan.refused else 'nothing to delete'}, begins at {plan.start}")
        else:
            print(
                f"p{plan.partition}  {'would begin' if dry_run else 'begins'} at log offset {plan.to}, position "
                f"{plan.beginning.header.size}: {plan.to - plan.start} offsets deleted, {plan.end - plan.to} stay"
            )
        for reason in plan.held_back:
            print(f"      {reason}")
    if any(plan.refused for plan in plans):
        raise typer.Exit(1)


async def _trim(
    kafka: "KafkaSettings",
    partition: int | None,
    readers: "Readers",
    verifiers: "list[Verifier]",
    *,
    margin_ms: int,
    dry_run: bool,
) -> "list[TrimPlan]":
    from meterproof.kafka.topic_descriptions import partitions_of
    from meterproof.kafka.trimming import trim_log
    from meterproof_schemas.topics import Topic
    from meterproof_sinks.log_trim import plan_trim

    numbers = range(await partitions_of(kafka, kafka.topic(Topic.LOG))) if partition is None else [partition]
    plans = []
    for number in numbers:
        plan = await plan_trim(kafka, number, readers, verifiers, margin_ms=margin_ms)
        if plan.beginning is not None and not dry_run:
            await trim_log(kafka, number, plan.beginning)
        plans.append(plan)
    return plans


def _progress(data: Path, url: str | None) -> Mapping[str, int]:
    """By origin, the log offset up to which ClickHouse has everything; a running sink is asked for its folder's."""
    from meterproof_sinks.clickhouse import ClickHouse, ClickHouseUnavailable
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.query_front import read_endpoint

    settings, folder, found = ClickHouseSettings(), DataFolder(data).clickhouse, None
    if (server := url or settings.url) is not None:
        found = settings.connect(server)
    elif (endpoint := read_endpoint(folder)) is not None:
        with contextlib.suppress(ClickHouseUnavailable):
            found = settings.connect(endpoint.url)
    if found is None:
        found = ClickHouse.read_folder(folder, database=settings.database)
    try:
        return {str(log): int(offset) for log, offset in found.rows(_PROGRESS)}
    finally:
        found.close()


def main(argv: list[str]) -> int:
    """Trim the logs: delete what every reader is behind and the audit folder holds."""
    from meterproof_sinks.clickhouse import ClickHouseError

    expected = (MeterError, KafkaProblem, ContractError, AuditError, NoVerifierKey, ClickHouseError, OSError)
    return run_app(app, "meterproof log", argv, expected)
