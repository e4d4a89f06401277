"""How far a log may be cut off at its beginning: only what nobody will read again, and what is on disk, signed."""

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from meterproof.kafka.geneses import read_geneses, read_genesis
from meterproof.kafka.group_offsets import read_group_offsets
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.trimming import read_checkpoints
from meterproof_proofs.checkpoint import open_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.note import Verifier
from meterproof_schemas.budget import Marker, decode_budget_state, marker_key
from meterproof_schemas.chain import LogChain
from meterproof_schemas.checkpoint_record import CheckpointRecord
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.log_record import Genesis, LogRecord, decode_record
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit_errors import AuditError
from meterproof_sinks.audit_folder import follow_records, log_folder_name
from meterproof_sinks.audit_segment import TornAudit

_OWN_GROUPS: Final = ("checkpointer", "budgets")
"""Their offsets are for displays; what they have, their own output says."""
MARGIN_MS: Final = 24 * 3_600_000
"""What is kept beyond the time for which identities are remembered."""


@dataclass(frozen=True, slots=True)
class Readers:
    """Who must be behind what is deleted; what is None is not asked, because the deployment does not have it."""

    audit: Path
    """The audit folder, which must hold every deleted record byte for byte."""
    clickhouse: Mapping[str, int] | None
    """By origin, the log offset of the newest progress row."""
    budgets: bool
    """Whether budgets run: then their marker must be behind it."""
    ignored_groups: Sequence[str] = ()
    """Consumer groups of others that may lose what they have not read."""


@dataclass(slots=True)
class TrimPlan:
    """What can be deleted of one log, and what stands against more."""

    partition: int
    origin: str
    start: int
    """Log offset of the first record now."""
    end: int
    """Log offset behind the last record."""
    beginning: CheckpointRecord | None = None
    """The signed checkpoint at whose record the log can begin; None if nothing can be deleted."""
    held_back: list[str] = field(default_factory=list)
    """Why not more, or nothing, in words that say what to do."""
    refused: bool = False
    """Whether something is missing or wrong, rather than merely young."""

    @property
    def to(self) -> int:
        """Log offset of the first record that stays."""
        return self.start if self.beginning is None else self.beginning.header.log_offset

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "partition": self.partition,
            "origin": self.origin,
            "start": self.start,
            "end": self.end,
            "to": self.to,
            "records": self.to - self.start,
            "position": None if self.beginning is None else self.beginning.header.size,
            "held_back": self.held_back,
            "refused": self.refused,
        }


@dataclass(frozen=True, slots=True)
class _Audited:
    """How far the audit folder's own chain goes, followed byte for byte from the genesis."""

    log_offset: int | None
    digests: Mapping[int, str]
    """Of the records at the offsets that were asked for."""
    fault: str | None
    """What ended it early."""


async def plan_trim(
    kafka: KafkaSettings,
    partition: int,
    readers: Readers,
    verifiers: Sequence[Verifier],
    *,
    margin_ms: int = MARGIN_MS,
) -> TrimPlan:
    """How far the log of a partition can be cut off. Changes nothing.

    A log begins at the record of a signed checkpoint from then on, so that a sequencer without any folder of its own
    can go on there. In this order:

    1. The genesis is kept in `usage.checkpoints`.
    2. Old enough: the newest checkpoint's clock is past the beginning's by the time for which identities are
       remembered, and the margin. So the records that stay hold every identity that can still be refused as repeated.
    3. Every reader is behind: the audit folder, ClickHouse, the marker of the budgets. (The checkpointer is: it signed
       that checkpoint.) And every consumer group of somebody else that has committed an offset of this log.
    4. The checkpoint is signed by the log's key, and the log holds its record, with its size and root.
    5. The audit folder holds the whole chain up to this very record: so every byte that will be deleted.

    Raises:
        KafkaProblem: Kafka cannot be used.
        StageStopped: the audit folder contradicts itself.
        OSError: a file of it cannot be read.
    """
    genesis = await read_genesis(kafka, partition)
    async with PartitionReader(kafka, kafka.topic(Topic.LOG), partition) as reader:
        start, end = await reader.bounds()
        plan = TrimPlan(partition, genesis.origin, start, end)
        if genesis.origin not in await read_geneses(kafka):  # 1
            return _refused(plan, "usage.checkpoints does not keep its genesis: run `meterproof topics create` again")
        checkpoints = await read_checkpoints(kafka, genesis.origin)
        old = _old_enough(checkpoints, genesis, margin_ms)  # 2
        candidates = [record for record in old if record.header.log_offset > start]
        if not candidates:
            plan.held_back.append("nothing is older than the horizon and the margin")
            return plan
        offsets = {record.header.log_offset for record in candidates}
        folder = readers.audit / log_folder_name(genesis.origin)
        audited = await asyncio.to_thread(_audited, folder, offsets)
        for name, cursor, remedy in await _cursors(kafka, genesis, readers, audited):  # 3
            if cursor is None:
                return _refused(plan, f"{name} has nothing of this log; {remedy}")
            if cursor < candidates[-1].header.log_offset:
                plan.held_back.append(f"{name} is at log offset {cursor}")
            candidates = [record for record in candidates if record.header.log_offset <= cursor]
            if not candidates:
                return _refused(plan, f"{name} is not behind anything that is old enough; {remedy}")
        beginning = candidates[-1]
        stands = await reader.at(beginning.header.log_offset)
        fault = _signature_fault(beginning, None if stands is None else stands.value, verifiers, genesis)  # 4
    if fault is None and audited.digests.get(beginning.header.log_offset) != beginning.header.digest:  # 5
        fault = f"the audit folder holds another record at log offset {beginning.header.log_offset} than the signed one"
    if fault is not None:
        return _refused(plan, fault)
    plan.beginning = beginning
    return plan


def _refused(plan: TrimPlan, why: str) -> TrimPlan:
    plan.held_back.append(why)
    plan.refused = True
    return plan


def _old_enough(checkpoints: Sequence[CheckpointRecord], genesis: Genesis, margin_ms: int) -> list[CheckpointRecord]:
    newest_ms = max((record.header.clock_ms for record in checkpoints), default=0)
    limit_ms = newest_ms - genesis.limits.identities_kept_ms - margin_ms
    return [record for record in checkpoints if record.header.clock_ms < limit_ms]


async def _cursors(
    kafka: KafkaSettings, genesis: Genesis, readers: Readers, audited: _Audited
) -> list[tuple[str, int | None, str]]:
    """Each reader: its name, the log offset up to which it has everything, and what to do where it has nothing."""
    remedy = f"it is damaged: {audited.fault}" if audited.fault else "run its sink, or name another with --audit"
    found: list[tuple[str, int | None, str]] = [("the audit folder", audited.log_offset, remedy)]
    if readers.clickhouse is not None:
        at = readers.clickhouse.get(genesis.origin)
        found.append(("ClickHouse", at, "run its sink, or say --no-clickhouse if the deployment has none"))
    if readers.budgets:
        marker = await _marker(kafka, genesis)
        found.append(("budgets", marker, "run them, or say --no-budgets if the deployment has none"))
    ignored = {*readers.ignored_groups, *(f"{kafka.topic_prefix}{name}" for name in _OWN_GROUPS)}
    groups = await read_group_offsets(kafka, kafka.topic(Topic.LOG), genesis.partition, ignored=ignored)
    for group, offset in sorted(groups.items()):
        remedy = f"let it read on, or say --ignore-group={group} if it may lose records"
        found.append((f"consumer group {group}", offset, remedy))
    return found


def _audited(folder: Path, offsets: AbstractSet[int]) -> _Audited:
    chain, digests, fault = LogChain(), {}, None
    try:
        for stored, record in follow_records(folder, chain):
            if stored.log_offset in offsets:
                digests[stored.log_offset] = record.digest
    except FileNotFoundError:
        return _Audited(None, {}, None)
    except TornAudit:  # a writer is in the middle of a record
        pass
    except AuditError as error:
        fault = str(error)
    return _Audited(None if chain.log_offset < 0 else chain.log_offset, digests, fault)


async def _marker(kafka: KafkaSettings, genesis: Genesis) -> int | None:
    at = None
    async with PartitionReader(kafka, kafka.topic(Topic.BUDGET_STATE), genesis.partition) as reader:
        async for records in reader.read(*await reader.bounds()):
            for record in records:
                if record.key == marker_key(genesis.origin) and record.value is not None:
                    found = decode_budget_state(record.value)
                    at = found.log_offset if isinstance(found, Marker) else at
    return at


def _signature_fault(
    beginning: CheckpointRecord, value: bytes | None, verifiers: Sequence[Verifier], genesis: Genesis
) -> str | None:
    offset = beginning.header.log_offset
    try:
        signed = open_checkpoint(beginning.note, verifiers, origin=genesis.origin)
    except ProofError as error:
        return f"the checkpoint at log offset {offset} is not signed by a key of --vkey: {error}"
    try:
        record: LogRecord | None = decode_record(value)
    except InvalidRecord:
        record = None
    if record is None or (record.digest, record.header.size, record.header.root) != (
        beginning.header.digest,
        signed.size,
        signed.root.hex(),
    ):
        return f"the log does not hold the signed record at offset {offset}: compare it with the audit folder"
    return None
