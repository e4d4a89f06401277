"""A state that is brought back from its folder is the fold of the same records, wherever the process ended."""

import random
from pathlib import Path
from typing import Any

import pytest

from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.log_record import LogRecord
from meterproof_stream import rocksdb_index
from meterproof_stream.errors import IndexDamaged
from meterproof_stream.judge import judge
from meterproof_stream.kept_state import KeptState
from meterproof_stream.record_builder import InForce, append_record
from meterproof_stream.rocksdb_index import RocksdbIndex
from tests.builders import make_batch, make_key
from tests.log_builder import LogBuilder, make_log

DAY_MS = 24 * 3600 * 1000


def snapshot(state: LogState, identities: list[bytes]) -> dict[str, Any]:
    """All that a state says."""
    return {
        "genesis": state.genesis,
        "log_offset": state.log_offset,
        "digest": state.digest,
        "next_source_offset": state.next_source_offset,
        "clock_ms": state.clock_ms,
        "position": state.position,
        "foreign": state.foreign,
        "frontier": state.frontier,
        "index": state.index.get_many(identities),
        "roots": state.series.roots(),
        "gaps": state.series.gaps(),
        "counts": dict(state.counts),
        "anchors": list(state.anchors),
    }


@pytest.fixture(scope="module")
def log() -> LogBuilder:
    """Every shape of record, gaps in series, and days between some records, so that much is forgotten."""
    log, chance = make_log(), random.Random(3)
    for step in range(40):
        log.batch(chance.randrange(1, 4), after_ms=chance.choice([1, 1000, DAY_MS // 3, DAY_MS]))
        if step % 5 == 0:
            lines = log.events(1)
            value = make_batch(
                lines, make_key(), instance=f"{step % 3:032x}", sequence=step, topic=log.genesis.source_topic
            )
            log.source(value)
        if step % 7 == 0:
            log.hole()
    return log


def identities_of_all(log: LogBuilder) -> list[bytes]:
    everything = LogState()
    seen: list[bytes] = []
    for offset, record in log.records:
        everything.offer(offset, record.value)
        seen += everything.index.items()  # type: ignore[attr-defined]  # the index in memory
    return sorted(set(seen))


def resumed(folder: Path, records: list[tuple[int, LogRecord]]) -> KeptState:
    index = RocksdbIndex.open(folder)
    assert index is not None
    record = dict(records)[index.cursor["log_offset"]]
    return KeptState.resume_at(folder, index, record)


@pytest.mark.parametrize("written_together", [1, 3, 1_000])
def test_a_resumed_state_is_the_fold(
    tmp_path: Path, log: LogBuilder, written_together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed after random numbers of records, each time with some that are appended and not acknowledged."""
    monkeypatch.setattr(rocksdb_index, "WRITE_RECORDS", written_together)
    identities, chance, folder = identities_of_all(log), random.Random(written_together), tmp_path / "p0"
    state: KeptState = KeptState(folder)
    taken = 0
    while taken < len(log.records):
        until = min(len(log.records), taken + chance.randrange(1, 12))
        for offset, record in log.records[taken:until]:
            state.offer(offset, b"an echo\n") if chance.random() < 0.2 else None
            state.offer(offset, record.value)
        expected = fold((offset, record.value) for offset, record in log.records[:until])
        expected.foreign = state.foreign
        assert snapshot(state, identities) == snapshot(expected, identities)
        state.close()
        state = resumed(folder, log.records)
        expected.foreign = state.foreign
        assert snapshot(state, identities) == snapshot(expected, identities)
        taken = until
    state.close()


def test_what_was_not_acknowledged_is_not_brought_back(tmp_path: Path) -> None:
    log = make_log()
    state = KeptState(tmp_path / "p0")
    for offset, record in log.records:
        state.offer(offset, record.value)
    before = snapshot(state, identities := identities_of_all(log))
    for _ in range(3):
        lines = log.events(2)
        value = make_batch(lines, log.key, sequence=90 + len(lines), topic=log.genesis.source_topic)
        judgement = judge(
            value,
            partition=0,
            offset=state.next_source_offset,
            append_ms=log.clock_ms,
            state=state,
            registry=log.registry,
            meters=frozenset({"requests"}),
        )
        append_record(
            state,
            judgement,
            log_offset=state.log_offset + 1,
            source_offset=state.next_source_offset,
            in_force=InForce("0" * 64, 0, "0" * 32, 1),
        )
    assert snapshot(state, identities) != before
    state.close()
    state = resumed(tmp_path / "p0", log.records)
    assert snapshot(state, identities) == before
    state.close()


def test_another_record_than_the_one_named_is_refused(tmp_path: Path, log: LogBuilder) -> None:
    state = KeptState(tmp_path / "p0")
    for offset, record in log.records:
        state.offer(offset, record.value)
    state.close()
    index = RocksdbIndex.open(tmp_path / "p0")
    assert index is not None
    with pytest.raises(IndexDamaged, match="another record"):
        KeptState.resume_at(tmp_path / "p0", index, log.records[-2][1])
    index.close()


def test_an_index_that_holds_something_else_than_a_state_is_refused(tmp_path: Path, log: LogBuilder) -> None:
    index = RocksdbIndex.create(tmp_path / "p0", 1)
    index.add(b"", b"", 0)
    index.acknowledge([], {"number": 1})
    with pytest.raises(IndexDamaged, match="genesis"):
        KeptState.resume_at(tmp_path / "p0", index, log.records[-1][1])
    index.close()
