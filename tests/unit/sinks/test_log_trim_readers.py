"""A log is cut off no further than everybody is: each of them holds it back, and so does whatever is not in order."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from meterproof.kafka.reader import Record
from meterproof.kafka.settings import KafkaSettings
from meterproof_proofs.checkpoint import sign_checkpoint
from meterproof_proofs.note import Signer
from meterproof_schemas.checkpoint_record import CheckpointHeader, CheckpointRecord
from meterproof_sinks import log_trim
from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.log_trim import Readers, TrimPlan, plan_trim
from tests.builders import make_genesis_record, make_limits
from tests.log_builder import LogBuilder, signed_pair

_STEP_MS = 10_000
_LIMITS = make_limits(horizon_ms=12_000, future_tolerance_ms=3_000)
_OLDEST_NEEDED = 3
"""Of the log below: the newest record that is old enough to begin with; see `_log`."""


def _log(lines: int = 3) -> LogBuilder:
    """The genesis and five batches, one every ten seconds: identities are remembered for fifteen."""
    log = LogBuilder(genesis_value=make_genesis_record(limits=_LIMITS))
    for _ in range(5):
        log.clock_ms += _STEP_MS
        log.batch(lines)
    return log


LOG = _log()


class _Kafka:
    """What `plan_trim` asks of Kafka, where everybody has everything."""

    def __init__(self) -> None:
        self.values = [record.value for _, record in LOG.records]
        self.geneses: dict[str, bytes] = {LOG.origin: b""}
        self.checkpoints = [_signed(number) for number in range(1, len(LOG.records))]
        self.groups: dict[str, int] = {}
        self.marker: int | None = len(LOG.records) - 1

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        genesis = LOG.records[0][1].header.genesis

        def answering(answer: Callable[[], Any]) -> Callable[..., Any]:
            async def asked(*_: object, **__: object) -> object:
                return answer()

            return asked

        monkeypatch.setattr(log_trim, "read_genesis", answering(lambda: genesis))
        monkeypatch.setattr(log_trim, "read_geneses", answering(lambda: self.geneses))
        monkeypatch.setattr(log_trim, "read_checkpoints", answering(lambda: self.checkpoints))
        monkeypatch.setattr(log_trim, "read_group_offsets", answering(lambda: self.groups))
        monkeypatch.setattr(log_trim, "_marker", answering(lambda: self.marker))
        monkeypatch.setattr(log_trim, "PartitionReader", lambda *_: _Reader(self.values))


class _Reader:
    """The log's partition."""

    def __init__(self, values: list[bytes]) -> None:
        self._values = values

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def bounds(self) -> tuple[int, int]:
        return 0, len(self._values)

    async def at(self, offset: int) -> Record:
        return Record(offset, 0, append_time=True, key=None, value=self._values[offset])


def _signed(number: int, signer: Signer = LOG.signer) -> CheckpointRecord:
    log_offset, record = LOG.records[number]
    header = CheckpointHeader(
        v=1,
        origin=LOG.origin,
        size=record.header.size,
        log_offset=log_offset,
        digest=record.digest,
        clock_ms=record.header.clock_ms,
    )
    return CheckpointRecord(header, sign_checkpoint(signed_pair(LOG, number).events.checkpoint, [signer]))


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> _Kafka:
    made = _Kafka()
    made.stand_in(monkeypatch)
    return made


def _audit(folder: Path, records: int = len(LOG.records), log: LogBuilder = LOG) -> Path:
    """An audit folder that holds so many records of the log."""
    writer = AuditLog(folder / log_folder_name(LOG.origin), LOG.origin, 0)
    writer.append(log.records[:records])
    writer.close()
    return folder


async def _plan(audit: Path, *, clickhouse: int = len(LOG.records) - 1, margin_ms: int = 0) -> TrimPlan:
    readers = Readers(audit, {LOG.origin: clickhouse}, budgets=True)
    return await plan_trim(KafkaSettings(), 0, readers, [LOG.signer.verifier], margin_ms=margin_ms)


@pytest.mark.usefixtures("kafka")
async def test_where_everybody_has_everything_it_goes_as_far_as_the_horizon(tmp_path: Path) -> None:
    audit = _audit(tmp_path)
    plan = await _plan(audit)
    assert (plan.to, plan.refused, plan.held_back) == (_OLDEST_NEEDED, False, [])
    assert (await _plan(audit, margin_ms=_STEP_MS)).to == _OLDEST_NEEDED - 1
    nothing = await _plan(audit, margin_ms=4 * _STEP_MS)
    assert (nothing.to, nothing.refused) == (0, False)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("who", ["the audit folder", "ClickHouse", "budgets", "consumer group theirs"])
async def test_whoever_is_behind_holds_it_back(tmp_path: Path, kafka: _Kafka, who: str, at: int) -> None:
    """At the first record nothing can go: then it is refused, by name."""
    audit = _audit(tmp_path, at + 1 if who == "the audit folder" else len(LOG.records))
    if who == "budgets":
        kafka.marker = at
    if who.startswith("consumer"):
        kafka.groups = {"theirs": at}
    plan = await _plan(audit, **({"clickhouse": at} if who == "ClickHouse" else {}))
    assert (plan.to, plan.refused) == (at, at == 0)
    assert plan.held_back[0] == f"{who} is at log offset {at}"


async def test_who_has_nothing_refuses_it(tmp_path: Path, kafka: _Kafka) -> None:
    assert "the audit folder has nothing" in (await _plan(tmp_path / "nowhere")).held_back[0]
    audit = _audit(tmp_path)
    kafka.marker = None
    assert "budgets has nothing" in (await _plan(audit)).held_back[0]
    without = await plan_trim(KafkaSettings(), 0, Readers(audit, {}, budgets=False), [LOG.signer.verifier], margin_ms=0)
    assert (without.to, without.refused) == (0, True)
    assert "ClickHouse has nothing" in without.held_back[0]
    neither = Readers(audit, None, budgets=False)
    assert (await plan_trim(KafkaSettings(), 0, neither, [LOG.signer.verifier], margin_ms=0)).to == _OLDEST_NEEDED


async def test_what_is_not_in_order_refuses_it(tmp_path: Path, kafka: _Kafka) -> None:
    audit = _audit(tmp_path)
    kafka.geneses = {}
    assert "does not keep its genesis" in (await _plan(audit)).held_back[0]
    kafka.geneses = {LOG.origin: b""}

    kafka.values[_OLDEST_NEEDED] = LOG.records[2][1].value
    assert "the log does not hold the signed record" in (await _plan(audit)).held_back[0]
    kafka.values[_OLDEST_NEEDED] = LOG.records[_OLDEST_NEEDED][1].value

    right = kafka.checkpoints[_OLDEST_NEEDED - 1]
    kafka.checkpoints[_OLDEST_NEEDED - 1] = _signed(_OLDEST_NEEDED, Signer(LOG.signer.verifier.name, b"\1" * 32))
    assert "is not signed by a key of --vkey" in (await _plan(audit)).held_back[0]
    other = replace(right, header=right.header.model_copy(update={"digest": LOG.records[2][1].digest}))
    kafka.checkpoints[_OLDEST_NEEDED - 1] = other
    refused = await _plan(audit)
    assert (refused.to, refused.refused) == (0, True)
    kafka.checkpoints[_OLDEST_NEEDED - 1] = right
    assert (await _plan(audit)).to == _OLDEST_NEEDED

    of_another_history = _audit(tmp_path / "other", log=_log(lines=2))
    assert "the audit folder holds another record" in (await _plan(of_another_history)).held_back[0]
