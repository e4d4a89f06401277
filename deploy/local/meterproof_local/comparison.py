"""What every stage holds, counted where it lies, against the ledger of what was sent."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from meterproof.deployment import DataFolder
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_local.clickhouse_reader import clickhouse_rows
from meterproof_local.ledger import AlertName, Ledger, Window, digest_of
from meterproof_proofs.checkpoint import open_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.note import Verifier
from meterproof_schemas.budget import PartialSum, decode_alert, decode_budget_state
from meterproof_schemas.checkpoint_record import decode_checkpoint_record, genesis_key
from meterproof_schemas.fold import LogState
from meterproof_schemas.instant import parse_instant_us
from meterproof_schemas.reasons import DUPLICATE
from meterproof_schemas.rejection import decode_rejection
from meterproof_schemas.topics import Topic
from meterproof_sinks.audit_errors import AuditError
from meterproof_sinks.audit_folder import log_folders, records
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_inputs import load_producers

_GENESIS: Final = genesis_key("")


@dataclass(slots=True)
class Measured:
    """What was found, by stage."""

    accepted: Counter[bytes] = field(default_factory=Counter)
    """Lines in the log, each as often as it stands there."""
    verdicts: Counter[str] = field(default_factory=Counter)
    """Lines not accepted, by verdict, and whole batches under `record:<reason>`, as the log states them."""
    roots: dict[tuple[str, int], bytes] = field(default_factory=dict)
    """Derived from the log's lines, by origin and size, at the end of each record."""
    sizes: dict[str, int] = field(default_factory=dict)
    """By origin."""
    refused: Counter[str] = field(default_factory=Counter)
    """Events in `usage.rejected`, by reason."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Records of `usage.rejected`, each key once, by reason as in `verdicts`."""
    clickhouse_rows: int = 0
    clickhouse_units: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    clickhouse_spend: dict[str, Decimal] = field(default_factory=dict)
    audit_lines: Counter[bytes] = field(default_factory=Counter)
    """By their digests."""
    audit_faults: list[str] = field(default_factory=list)
    """What `meterproof verify` finds wrong."""
    audit_covered: int = 0
    """Events in the audit folder that its signed checkpoints prove."""
    budget_spend: dict[Window, Decimal] = field(default_factory=dict)
    alerts: set[AlertName] = field(default_factory=set)
    checkpoints: int = 0
    checkpoints_false: int = 0
    """Checkpoints that no key of the deployment signed, or whose root is not the one derived."""
    checkpointed: dict[str, int] = field(default_factory=dict)
    """Size of the largest checkpoint, by origin."""


async def measure_kafka(kafka: KafkaSettings, partitions: int, folder: DataFolder, measured: Measured) -> None:
    """Read every topic to its end: log, refusals, checkpoints, budget sums and alerts."""
    for partition in range(partitions):
        state = LogState()
        for offset, _, value in await _records(kafka, Topic.LOG, partition):
            record = state.offer(offset, value)
            if record is not None and state.genesis is not None:
                measured.accepted.update(map(digest_of, record.lines))
                measured.roots[state.genesis.origin, state.position] = state.frontier.root()
                measured.sizes[state.genesis.origin] = state.position
        measured.verdicts.update(state.counts)
        refusals = {key: value for _, key, value in await _records(kafka, Topic.REJECTED, partition)}
        for value in refusals.values():
            rejection = decode_rejection(value)
            whole = rejection.header.line is None
            # Lines 0 and 1 of a batch are its header and signatures, and what follows the last LF is no line.
            events = max(1, rejection.payload.count(b"\n") - 2) if whole else 1
            reason = rejection.header.reason.value
            measured.refused[reason] += events
            measured.refusals[f"record:{reason}" if whole else reason] += 1
        sums: dict[bytes, PartialSum] = {}
        for _, key, value in await _records(kafka, Topic.BUDGET_STATE, partition):
            stored = decode_budget_state(value)
            if isinstance(stored, PartialSum) and (key not in sums or sums[key].position <= stored.position):
                sums[key] = stored
        for total in sums.values():
            window = (total.scope, total.subject, total.window, parse_instant_us(total.start))
            measured.budget_spend[window] = measured.budget_spend.get(window, Decimal(0)) + Decimal(total.spend)
        for _, _, value in await _records(kafka, Topic.ALERTS, partition):
            alert = decode_alert(value)
            measured.alerts.add((alert.budget, alert.subject, parse_instant_us(alert.start), alert.threshold))
    verifiers = read_verifiers(folder.vkeys)
    for _, key, value in await _records(kafka, Topic.CHECKPOINTS, 0):
        if not key.endswith(_GENESIS):
            _measure_checkpoint(value, verifiers, measured)


def _measure_checkpoint(value: bytes | None, verifiers: list[Verifier], measured: Measured) -> None:
    measured.checkpoints += 1
    stored = decode_checkpoint_record(value)
    try:
        checkpoint = open_checkpoint(stored.note, verifiers, origin=stored.header.origin)
    except ProofError:
        measured.checkpoints_false += 1
        return
    if measured.roots.get((checkpoint.origin, checkpoint.size)) != checkpoint.root:
        measured.checkpoints_false += 1
        return
    largest = measured.checkpointed.get(checkpoint.origin, 0)
    measured.checkpointed[checkpoint.origin] = max(largest, checkpoint.size)


def measure_folders(folder: DataFolder, measured: Measured) -> None:
    """Look into ClickHouse and the audit folder. Blocking."""
    measured.clickhouse_rows = clickhouse_rows(folder, "SELECT count() FROM usage")[0][0]
    measured.clickhouse_spend = dict(clickhouse_rows(folder, "SELECT agent, sum(cost) FROM usage GROUP BY agent"))
    by_meter = "SELECT agent, usage.1, sum(usage.2) FROM usage ARRAY JOIN usage GROUP BY ALL"
    measured.clickhouse_units = {(agent, meter): units for agent, meter, units in clickhouse_rows(folder, by_meter)}
    for log in log_folders(folder.audit):
        with suppress(AuditError):  # verifying it tells where
            for _, record in records(log):
                measured.audit_lines.update(map(digest_of, record.lines))
    report = verify_folder(folder.root, read_verifiers(folder.vkeys), load_producers(folder.registry))
    measured.audit_faults = [str(fault) for fault in report.all_faults]
    if not report.holds and not measured.audit_faults:
        measured.audit_faults.append("no log has a signed checkpoint")
    measured.audit_covered = sum(log.covered for log in report.logs)


@dataclass(frozen=True, slots=True)
class Check:
    """One figure, expected and found."""

    name: str
    label: str
    expected: int | str
    found: int | str
    difference: int
    """What is missing and what is too much, counted one by one: opposite faults do not cancel out."""


def checks(ledger: Ledger, measured: Measured) -> list[Check]:
    """Every stage against the ledger; all is well if every difference is 0."""
    lines = Counter(ledger.unique.values())
    size = sum(measured.sizes.values())
    covered = sum(measured.checkpointed.values())
    refusals = Counter({verdict: count for verdict, count in measured.verdicts.items() if verdict not in _NO_REFUSALS})
    return [
        Check(
            "accepted", "accepted into the log", len(lines), measured.accepted.total(), _apart(lines, measured.accepted)
        ),
        _count("duplicates", "duplicates in the log", ledger.duplicates, measured.verdicts[DUPLICATE]),
        *(
            _count(f"rejected_{reason}", f"rejected: {reason}", ledger.rejected[reason], measured.refused[reason])
            for reason in sorted({*ledger.rejected, *measured.refused})
        ),
        _count(
            "sent",
            "accepted + duplicates + rejected",
            ledger.sent,
            measured.accepted.total() + measured.verdicts[DUPLICATE] + measured.refused.total(),
        ),
        Check(
            "refusals_kept",
            "refusals kept for inspection",
            refusals.total(),
            measured.refusals.total(),
            _apart(refusals, measured.refusals),
        ),
        _count("clickhouse_rows", "rows in ClickHouse", len(lines), measured.clickhouse_rows),
        _amounts("clickhouse_units", "units by agent and meter", dict(ledger.units), measured.clickhouse_units),
        _amounts("clickhouse_spend", "spend by agent, USD", dict(ledger.spend), measured.clickhouse_spend),
        _amounts("budget_spend", "spend by budget window, USD", dict(ledger.windows), measured.budget_spend),
        Check(
            "alerts",
            "budget alerts",
            len(ledger.alerts()),
            len(measured.alerts),
            len(ledger.alerts() ^ measured.alerts),
        ),
        Check(
            "audit_lines",
            "lines in the audit log",
            len(lines),
            measured.audit_lines.total(),
            _apart(lines, measured.audit_lines),
        ),
        _count("audit_verified", "of these proved by `meterproof verify`", len(lines), measured.audit_covered),
        _count("audit_faults", "faults that it finds", 0, len(measured.audit_faults)),
        _count("checkpoint_roots", "checkpoints with another root", 0, measured.checkpoints_false),
        _count("checkpoint_cover", "events under a checkpoint", size, covered),
    ]


_NO_REFUSALS: Final = frozenset({"accepted", DUPLICATE})


def _count(name: str, label: str, expected: int, found: int) -> Check:
    return Check(name, label, expected, found, abs(expected - found))


def _amounts(name: str, label: str, expected: dict[Any, Decimal], found: dict[Any, Decimal]) -> Check:
    keys = {*expected, *found}
    differing = sum(expected.get(key, Decimal(0)) != found.get(key, Decimal(0)) for key in keys)
    total = [format(sum(amounts.values(), Decimal(0)).normalize(), "f") for amounts in (expected, found)]
    return Check(name, label, total[0], total[1], differing)


def _apart(expected: Counter[Any], found: Counter[Any]) -> int:
    """How many are missing or too many."""
    return (expected - found).total() + (found - expected).total()


async def _records(kafka: KafkaSettings, topic: Topic, partition: int) -> list[tuple[int, bytes, bytes | None]]:
    """All records of a partition: offset, key, value."""
    async with PartitionReader(kafka, kafka.topic(topic), partition) as reader:
        return [
            (record.offset, record.key or b"", record.value)
            async for records in reader.read(*await reader.bounds())
            for record in records
        ]
