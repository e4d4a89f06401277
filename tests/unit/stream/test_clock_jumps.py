"""The broker's clock jumps by days, backwards and forwards: nothing is counted twice, and both indexes judge alike."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from meterproof.kafka.producer import Delivery, RecordProducer
from meterproof.log_key import LogKey, LogKeys
from meterproof_proofs.frontier import Frontier
from meterproof_schemas.chain import LogChain
from meterproof_schemas.checkpoint_record import decode_checkpoint_record
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import LogRecord, decode_record
from meterproof_stream.checkpointer import CheckpointLane, TreeSigners
from meterproof_stream.judge import Judgement, judge
from meterproof_stream.kept_state import KeptState
from meterproof_stream.record_builder import InForce, append_record
from meterproof_stream.rocksdb_index import RocksdbIndex
from meterproof_stream.signed_before import SignedBefore
from tests.builders import NOW_MS, make_batch, make_event, make_genesis_record, make_key, make_registry
from tests.log_builder import LogBuilder

DAY_MS = 24 * 3_600_000
KEY = make_key()
REGISTRY = make_registry(KEY)


class Logs:
    """One log, judged by a state in memory and by one that comes back from its folder before every record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = LogState()
        self.sequence = 0
        genesis = make_genesis_record()
        first = self.memory.offer(0, genesis)
        assert first is not None
        self.last: LogRecord = first
        kept = KeptState(folder)
        kept.offer(0, genesis)
        kept.close()

    def send(self, *lines: bytes, append_ms: int) -> list[str]:
        """What becomes of each line: its verdict."""
        value = make_batch(list(lines), KEY, sequence=self.sequence)
        self.sequence += 1
        index = RocksdbIndex.open(self.folder)
        assert index is not None
        kept = KeptState.resume_at(self.folder, index, self.last)
        on_disk, in_memory = (self._judge(state, value, append_ms) for state in (kept, self.memory))
        assert on_disk.not_accepted == in_memory.not_accepted
        offset = self.memory.next_source_offset
        built = [
            append_record(
                state,
                judgement,
                log_offset=offset + 1,
                source_offset=offset,
                in_force=InForce("0" * 64, 0, "0" * 32, 1),
            )
            for state, judgement in ((kept, on_disk), (self.memory, in_memory))
        ]
        assert built[0].value == built[1].value
        kept.acknowledge(offset + 1)
        kept.close()
        self.last = decode_record(built[0].value)
        refused = {number: verdict for number, verdict, _ in on_disk.not_accepted}
        return [refused.get(number, "accepted") for number in range(len(lines))]

    def _judge(self, state: LogState, value: bytes, append_ms: int) -> Judgement:
        return judge(
            value,
            partition=0,
            offset=state.next_source_offset,
            append_ms=append_ms,
            state=state,
            registry=REGISTRY,
            meters={"requests"},
        )


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "p0")


def event(name: str, time_ms: int) -> bytes:
    return make_event(name, time_ms=time_ms)


@pytest.mark.parametrize("days", [1, 3, 400])
def test_backwards(logs: Logs, days: int) -> None:
    """The ingest clock stands still meanwhile, so nothing is forgotten, and what was refused can come again."""
    back_ms = NOW_MS - days * DAY_MS
    first, during = event("first", NOW_MS), event("during", NOW_MS + 1_000)
    assert logs.send(first, append_ms=NOW_MS) == ["accepted"]
    assert logs.send(first, during, append_ms=back_ms) == ["in_future", "in_future"]
    assert logs.memory.clock_ms == NOW_MS
    assert logs.send(event("old", back_ms), append_ms=back_ms) == ["accepted" if days == 1 else "too_late"]
    assert logs.send(first, during, append_ms=NOW_MS + 2_000) == ["duplicate", "accepted"]
    assert logs.send(during, append_ms=back_ms + 2 * DAY_MS) == ["duplicate" if days < 3 else "in_future"]


def test_forwards_and_back(logs: Logs) -> None:
    """Everything is forgotten, and everything old is too late for ever: never counted again, and never silently."""
    ahead_ms = NOW_MS + 400 * DAY_MS
    first = event("first", NOW_MS)
    assert logs.send(first, append_ms=NOW_MS) == ["accepted"]
    assert logs.send(event("then", ahead_ms), first, append_ms=ahead_ms) == ["accepted", "too_late"]
    assert len(logs.memory.index) == 1
    assert logs.send(first, event("now", NOW_MS + 1_000), append_ms=NOW_MS + 1_000) == ["too_late", "too_late"]
    assert logs.memory.clock_ms == ahead_ms
    late = event("within", ahead_ms - DAY_MS // 2)
    assert logs.send(late, late, append_ms=ahead_ms + 1) == ["accepted", "duplicate"]
    assert logs.memory.position == 3
    assert logs.memory.counts["too_late"] == 3


def test_one_jump_is_one_eviction_whatever_the_steps(logs: Logs, tmp_path: Path) -> None:
    """Forwards in one step or in many: the same identities are known, and a year ahead no span of them is left."""
    other = Logs(tmp_path / "other")
    for step in range(30):
        logs.send(event(f"e{step}", NOW_MS + step * DAY_MS // 7), append_ms=NOW_MS + step * DAY_MS // 7)
        other.send(event(f"e{step}", NOW_MS + step * DAY_MS // 7), append_ms=NOW_MS + step * DAY_MS // 7)
    end_ms = NOW_MS + 400 * DAY_MS
    for at_ms in range(NOW_MS + 5 * DAY_MS, end_ms, 50 * DAY_MS):
        other.send(event(f"at{at_ms}", at_ms), append_ms=at_ms)
    for each in (logs, other):
        assert each.send(event("last", end_ms), append_ms=end_ms) == ["accepted"]
        assert len(each.memory.index) == 1
        index = RocksdbIndex.open(each.folder)
        assert index is not None
        assert len(index) == 1
        index.close()


class Producer:
    """Takes every record at once; a real broker shows nothing more of what is signed here."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    async def send(self, topic: str, partition: int, value: bytes, key: bytes) -> "asyncio.Future[Delivery]":
        del key
        self.values.append(value)
        acknowledged = asyncio.get_running_loop().create_future()
        acknowledged.set_result(Delivery(topic, partition, len(self.values) - 1, NOW_MS))
        return acknowledged


@pytest.mark.parametrize("jumps_ms", [[DAY_MS, 0, DAY_MS], [-DAY_MS, 0, DAY_MS], [400 * DAY_MS, -400 * DAY_MS, 0]])
async def test_a_checkpoint_is_signed_at_every_record_whatever_the_clock_says(jumps_ms: list[int]) -> None:
    """And states the ingest clock, which never goes back."""
    log, producer = LogBuilder(), Producer()
    signers = TreeSigners.of(LogKeys([LogKey(b"\x07" * 32)]), log.origin)
    lane = CheckpointLane(
        chain=LogChain(),
        frontier=Frontier(),
        heads=Frontier(),
        before=SignedBefore([]),
        signers=signers,
        producer=cast("RecordProducer", producer),
        topic="usage.checkpoints",
        witness=None,
        published=None,
    )
    for after_ms in [0, *jumps_ms]:
        log.batch(2, after_ms=after_ms)
        offset, _ = log.records[-1]
        for missing, record in log.records[lane.chain.log_offset + 1 :]:
            taken = lane.chain.offer(missing, record.value)
            assert taken is not None
            lane.take(missing, taken)
        await lane.flush()
        signed = decode_checkpoint_record(producer.values[-1])
        assert (signed.header.log_offset, signed.header.clock_ms) == (offset, log.state.clock_ms)
        assert signers.open(signed.note, log.origin).root == log.state.frontier.root()
    clocks = [decode_checkpoint_record(value).header.clock_ms or 0 for value in producer.values]
    assert clocks == sorted(clocks)
    assert len(producer.values) == 1 + len(jumps_ms)
