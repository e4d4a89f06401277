"""One event through every stage: what was sent under an id, what became of it, and where it counts."""

import asyncio
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import orjson

from meterproof.deployment import DataFolder
from meterproof.kafka.connection import admin_client
from meterproof.kafka.errors import BrokerUnreachable, KafkaProblem
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof_local.clickhouse_reader import clickhouse_rows
from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.key_files import NoVerifierKey, read_verifiers
from meterproof_proofs.tree import inclusion_proof, verify_inclusion
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.batch import BatchHeader, Signatures
from meterproof_schemas.budget import (
    Budget,
    PartialSum,
    SumKey,
    decode_budget_state,
    parse_budgets,
)
from meterproof_schemas.chain import LogChain
from meterproof_schemas.checkpoint_record import decode_checkpoint_record
from meterproof_schemas.errors import InvalidRecord, InvalidRegistry
from meterproof_schemas.event import entry_of
from meterproof_schemas.fast_event import read_event
from meterproof_schemas.instant import format_instant_ms, format_instant_us
from meterproof_schemas.keys import matches
from meterproof_schemas.log_record import Genesis, LogRecord
from meterproof_schemas.quantity import EXACT, plain
from meterproof_schemas.rejection import Rejection, decode_rejection
from meterproof_schemas.scopes import lies_in_one_log, subject_in
from meterproof_schemas.topics import Topic
from meterproof_schemas.window import window_start_us
from meterproof_sinks.audit_errors import AuditError
from meterproof_sinks.audit_folder import CHECKPOINT_FILE, follow_records, log_folders
from meterproof_sinks.audit_segment import StoredRecord, TornAudit
from meterproof_sinks.clickhouse import ClickHouseError
from meterproof_sinks.erased import entry_of_kept

ACCEPTED: Final = "accepted"
_ANSWERS_IN_S: Final = 5.0
_CLICKHOUSE_COLUMNS: Final = (
    *("event_time", "append_time", "agent", "customer", "provider", "model"),
    *("usage", "cost", "currency", "price_book", "entry"),
)
_ROW: Final = (
    f"SELECT {', '.join(_CLICKHOUSE_COLUMNS)} FROM usage "  # noqa: S608 - our own column names
    "WHERE log = {log:String} AND position = {position:UInt64}"
)


@dataclass(slots=True)
class Occurrence:
    """One time that the event was sent, and what became of it."""

    verdict: str
    """`accepted`, `duplicate`, or a reason."""
    line: bytes | None
    """As it was sent; None of a duplicate whose first is not here."""
    origin: str
    partition: int
    source_offset: int
    detail: str | None = None
    """Of a refusal: what is wrong, and where."""
    batch_line: int | None = None
    """Number of the event in its batch, from 0; None where the whole batch was refused."""
    batch: BatchHeader | None = None
    """Header of its batch, where a known key vouches for it."""
    key_ids: tuple[str, ...] = ()
    log_offset: int | None = None
    """None where the log record is not in the audit folder (yet)."""
    append_ms: int | None = None
    position: int | None = None
    """In the log; of accepted events."""
    price_book: int = 0
    audit_file: Path | None = None
    audit_line: int | None = None
    """From 1: of the event, or, where it was not accepted, of the frame of the record that says so."""
    clickhouse: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    proved: bool = False
    """Whether the position was proved against the checkpoint just now."""
    budgets: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """Everything that is known of an id."""

    event_id: str
    source: str | None
    occurrences: list[Occurrence] = field(default_factory=list)
    not_looked_at: list[str] = field(default_factory=list)
    """What could not be asked, and why."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "event_id": self.event_id,
            "source": self.source,
            "found": bool(self.occurrences),
            "occurrences": [_as_json(one) for one in self.occurrences],
            "not_looked_at": self.not_looked_at,
        }


async def trace_event(folder: DataFolder, event_id: str, source: str | None = None) -> Trace:
    """Look everywhere for an event: in Kafka if its broker answers, and in the folders, which need nothing running.

    1. `usage.rejected`: refused lines and batches that hold the id. 2. The audit folder: where it was accepted, every
    duplicate of that line, and the records that state the refusals found before. 3. For what was accepted: ClickHouse,
    checkpoints, budgets.

    Raises:
        NoDeployment: the folder holds no deployment.
    """
    trace = Trace(event_id, source)
    kafka = await _answering(folder)
    refusals: list[Rejection] = []
    if kafka is None:
        trace.not_looked_at.append(
            "usage.rejected (refusals and their payloads) and usage.budget-state (sums): Kafka does not answer; start "
            f"the pipeline with `meterproof up --data {shlex.quote(str(folder.root))}`"
        )
    else:
        refusals = await _refusals(kafka, folder.deployment().partitions, trace)
    await asyncio.to_thread(_search_audit, folder, trace, refusals)
    for one in trace.occurrences:
        if one.verdict != ACCEPTED:
            continue
        await asyncio.to_thread(_look_up_row, folder, one, trace)
        await _look_up_checkpoint(folder, kafka, one, trace)
        await _look_up_budgets(folder, kafka, one, trace)
    trace.occurrences.sort(key=lambda one: (one.append_ms or 0, one.partition, one.source_offset, one.batch_line or 0))
    trace.not_looked_at = list(dict.fromkeys(trace.not_looked_at))
    return trace


def _is_it(line: bytes, trace: Trace) -> bool:
    """Whether a line names the id that is looked for. Refused lines need not be JSON at all."""
    if trace.event_id.encode() not in line and b"\\" not in line:
        return False
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return f'"{trace.event_id}"'.encode() in line and trace.source is None
    if not isinstance(event, dict) or event.get("id") != trace.event_id:
        return False
    return trace.source is None or event.get("source") == trace.source


# --- Kafka ---


async def _answering(folder: DataFolder) -> KafkaSettings | None:
    """How Kafka is reached, if it answers.

    Raises:
        NoDeployment: the folder holds none.
        AccessDenied: Kafka answers and lets nobody in.
    """
    folder.deployment()
    kafka = folder.kafka_settings()
    try:
        async with asyncio.timeout(_ANSWERS_IN_S), admin_client(kafka):
            return kafka
    except (BrokerUnreachable, TimeoutError):
        return None


async def _values(kafka: KafkaSettings, topic: Topic, partition: int) -> list[tuple[bytes, bytes]]:
    async with PartitionReader(kafka, kafka.topic(topic), partition) as reader:
        return [
            (record.key or b"", record.value)
            async for records in reader.read(*await reader.bounds())
            for record in records
            if record.value is not None
        ]


async def _refusals(kafka: KafkaSettings, partitions: int, trace: Trace) -> list[Rejection]:
    """Refusals whose payload holds the id, each key once."""
    found: dict[bytes, Rejection] = {}
    try:
        for partition in range(partitions):
            for key, value in await _values(kafka, Topic.REJECTED, partition):
                if trace.event_id.encode() not in value and b"\\" not in value:
                    continue
                rejection = decode_rejection(value)
                if any(_is_it(line, trace) for line in _lines_of(rejection)):
                    found[key] = rejection
    except (KafkaProblem, InvalidRecord) as error:
        trace.not_looked_at.append(f"usage.rejected: {error}")
    return list(found.values())


def _lines_of(rejection: Rejection) -> Sequence[bytes]:
    """The event lines of a refusal; the last one of a batch that was cut may not be whole."""
    return [rejection.payload] if rejection.header.line is not None else rejection.payload.split(b"\n")[2:]


# --- the audit folder ---


def _search_audit(folder: DataFolder, trace: Trace, refusals: Iterable[Rejection]) -> None:
    """Add what the audit folder says, and the refusals, each with its record where that is found."""
    waiting = {(one.header.partition, one.header.offset): list[Rejection]() for one in refusals}
    for one in refusals:
        waiting[one.header.partition, one.header.offset].append(one)
    if not log_folders(folder.audit):
        trace.not_looked_at.append(f"the audit log: {folder.audit} holds none yet")
    for log in log_folders(folder.audit):
        chain = LogChain()
        lines: dict[str, bytes] = {}
        try:
            for stored, record in follow_records(log, chain):
                if chain.genesis is not None and record.header.source is not None:
                    _search_record(trace, chain.genesis, stored, record, lines)
                    key = (chain.genesis.partition, record.header.source.offset)
                    for rejection in waiting.pop(key, ()):
                        _add_refusal(trace, rejection, chain.genesis.origin, stored, record)
        except TornAudit:
            continue  # a writer is at work, or was cut off: all whole records were read
        except (AuditError, OSError) as error:
            trace.not_looked_at.append(f"the rest of {log}: {error}")
    for remaining in waiting.values():
        for rejection in remaining:
            _add_refusal(trace, rejection, "", None, None)


def _search_record(
    trace: Trace, genesis: Genesis, stored: StoredRecord, record: LogRecord, lines: dict[str, bytes]
) -> None:
    """Occurrences in one record; `lines` remembers accepted ones by entry, for their duplicates."""
    header = record.header
    others = {number for number, _, _ in header.not_accepted}
    numbers = (number for number in range(len(record.lines) + len(others)) if number not in others)
    for index, (number, line) in enumerate(zip(numbers, record.lines, strict=False)):
        if _is_it(line, trace):
            lines[entry_of(line).hex()] = line
            one = _occurrence(trace, ACCEPTED, line, genesis.origin, stored, record)
            one.batch_line, one.position, one.price_book = number, header.first + index, header.price_book
            one.audit_file, one.audit_line = stored.segment.events_file, stored.events_line + index
    for number, verdict, entry in header.not_accepted:
        if verdict == "duplicate" and entry in lines:
            _occurrence(trace, verdict, lines[entry], genesis.origin, stored, record).batch_line = number


def _add_refusal(
    trace: Trace, rejection: Rejection, origin: str, stored: StoredRecord | None, record: LogRecord | None
) -> None:
    header = rejection.header
    line = next(line for line in _lines_of(rejection) if _is_it(line, trace))
    if stored is not None and record is not None:
        one = _occurrence(trace, header.reason.value, line, origin, stored, record)
    else:
        one = Occurrence(header.reason.value, line, origin, header.partition, header.offset, append_ms=header.append_ms)
        trace.occurrences.append(one)
    one.detail, one.batch_line = header.detail, header.line


def _occurrence(  # noqa: PLR0917 - what an occurrence is made of
    trace: Trace, verdict: str, line: bytes, origin: str, stored: StoredRecord, record: LogRecord
) -> Occurrence:
    """A new occurrence, with what the record that states it says."""
    header = record.header
    one = Occurrence(
        verdict,
        line,
        origin,
        int(origin.rpartition("/p")[2]),
        0 if header.source is None else header.source.offset,
        log_offset=stored.log_offset,
        append_ms=header.append_ms,
        audit_file=stored.segment.records_file,
        audit_line=stored.records_line,
    )
    if record.carried is not None:
        one.batch = BatchHeader.model_validate_json(record.carried[0])
        signatures = Signatures.model_validate_json(record.carried[1]).signatures
        one.key_ids = tuple(signature.key_id for signature in signatures)
    trace.occurrences.append(one)
    return one


# --- what an accepted event counts in ---


def _look_up_row(folder: DataFolder, one: Occurrence, trace: Trace) -> None:
    try:
        rows = clickhouse_rows(folder, _ROW, {"log": one.origin, "position": one.position})
    except (ClickHouseError, OSError) as error:
        trace.not_looked_at.append(f"ClickHouse: {error}")
        return
    if rows:
        one.clickhouse = dict(zip(_CLICKHOUSE_COLUMNS, rows[0], strict=True))


async def _look_up_checkpoint(folder: DataFolder, kafka: KafkaSettings | None, one: Occurrence, trace: Trace) -> None:
    """The smallest known checkpoint that covers the position, and the proof that it does."""
    if one.position is None or one.audit_file is None:
        return
    log = one.audit_file.parent
    notes: list[bytes] = []
    try:
        if kafka is not None:
            for _, value in await _values(kafka, Topic.CHECKPOINTS, 0):
                try:
                    notes.append(decode_checkpoint_record(value).note)
                except InvalidRecord:
                    continue  # a genesis
        if (log / CHECKPOINT_FILE).exists():
            notes.append((log / CHECKPOINT_FILE).read_bytes())
        verifiers = read_verifiers(folder.vkeys)
    except (KafkaProblem, NoVerifierKey, OSError) as error:
        trace.not_looked_at.append(f"checkpoints: {error}")
        return
    covering = []
    for note in notes:
        try:
            checkpoint = open_checkpoint(note, verifiers, origin=one.origin)
        except ProofError:
            continue  # of another log
        if checkpoint.size > one.position:
            covering.append(checkpoint)
    if covering:
        one.checkpoint = min(covering, key=lambda checkpoint: checkpoint.size)
        one.proved = await asyncio.to_thread(_proves, log, one.checkpoint, one.position)


def _proves(log: Path, checkpoint: Checkpoint, position: int) -> bool:
    """Whether the entry at the position is in the signed tree, by an inclusion proof made from the files."""
    entries: list[bytes] = []
    try:
        for _, record in follow_records(log, LogChain()):
            entries.extend(map(entry_of_kept, record.lines))
            if len(entries) >= checkpoint.size:
                break
    except AuditError:
        return False
    leaves = leaf_hashes(entries[: checkpoint.size])
    try:
        proof = inclusion_proof(leaves, position, checkpoint.size)
        verify_inclusion(leaf=leaves[position], index=position, size=checkpoint.size, proof=proof, root=checkpoint.root)
    except ProofError:
        return False
    return True


async def _look_up_budgets(folder: DataFolder, kafka: KafkaSettings | None, one: Occurrence, trace: Trace) -> None:
    """The windows that the event's spend went into, with their sums over all logs where Kafka answers."""
    event = read_event(one.line or b"{}")
    try:
        budgets = parse_budgets(folder.budgets.read_bytes())
    except (InvalidRegistry, OSError) as error:
        trace.not_looked_at.append(f"budgets: {error}")
        return
    mine: list[tuple[Budget, SumKey]] = []
    for budget in budgets:
        subject = subject_in(budget.scope, event)
        if subject is not None and matches((budget.subject,), subject):
            start_us = window_start_us(event.time_us, budget.window, ZoneInfo(budget.zone))
            mine.append((budget, SumKey(budget.scope, subject, budget.window, budget.zone, start_us)))
    sums: dict[SumKey, dict[str, PartialSum]] = {key: {} for _, key in mine}
    if kafka is not None and mine:
        everywhere = any(not lies_in_one_log(budget.scope) for budget, _ in mine)
        try:
            partitions = range(await partitions_of(kafka, kafka.topic(Topic.BUDGET_STATE)))
            for partition in partitions if everywhere else [one.partition]:
                for _, value in await _values(kafka, Topic.BUDGET_STATE, partition):
                    stored = decode_budget_state(value)
                    if isinstance(stored, PartialSum) and stored.key in sums:
                        parts = sums[stored.key]
                        if stored.log not in parts or parts[stored.log].position <= stored.position:
                            parts[stored.log] = stored
        except (KafkaProblem, InvalidRecord) as error:
            trace.not_looked_at.append(f"usage.budget-state: {error}")
    one.budgets.extend(_budget_effect(budget, key, sums[key], one) for budget, key in mine)


def _budget_effect(budget: Budget, key: SumKey, parts: dict[str, PartialSum], one: Occurrence) -> dict[str, Any]:
    spend = Decimal(0)
    usage: dict[str, Decimal] = {}
    for part in parts.values():
        spend = EXACT.add(spend, Decimal(part.spend))
        for meter, quantity in part.exact_usage().items():
            usage[meter] = EXACT.add(usage.get(meter, Decimal(0)), quantity)
    mine = parts.get(one.origin)
    return {
        "budget": budget.name,
        "scope": key.scope,
        "subject": key.subject,
        "window": budget.window,
        "zone": budget.zone,
        "start": format_instant_us(key.start_us),
        "limit": budget.limit,
        "currency": budget.currency,
        "meters": budget.meters,
        "spend": plain(budget.used(spend, usage)) if parts else None,
        "events": sum(part.events for part in parts.values()) if parts else None,
        "counted": None if mine is None else mine.position > cast("int", one.position),
    }


def _as_json(one: Occurrence) -> dict[str, Any]:
    batch = one.batch
    return {
        "verdict": one.verdict,
        "detail": one.detail,
        "partition": one.partition,
        "source_offset": one.source_offset,
        "append_time": None if one.append_ms is None else format_instant_ms(one.append_ms),
        "batch": None
        if batch is None
        else {
            "producer": batch.producer,
            "instance": batch.instance,
            "sequence": batch.sequence,
            "sent_at": batch.sent_at,
            "events": batch.count,
            "line": one.batch_line,
            "key_ids": list(one.key_ids),
        },
        "log": one.origin or None,
        "log_offset": one.log_offset,
        "position": one.position,
        "audit": None if one.audit_file is None else {"file": str(one.audit_file), "line": one.audit_line},
        "event": None if one.line is None else one.line.decode("utf-8", "backslashreplace"),
        "clickhouse": None
        if one.clickhouse is None
        else {name: _plain(value) for name, value in one.clickhouse.items()},
        "checkpoint": None
        if one.checkpoint is None
        else {"size": one.checkpoint.size, "root": one.checkpoint.root.hex(), "proved": one.proved},
        "budgets": one.budgets,
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - a value of a ClickHouse column
    """A column's value as JSON takes it; decimals as strings, since JSON numbers are read as floats."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, int | str) or value is None:
        return value
    return plain(value) if hasattr(value, "as_tuple") else str(value)
