"""Every hostile golden message through a real sequencer: its own reason and payload, no neighbour lost, no stop."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import meterproof_schemas
from meterproof.exit_codes import CLEAN
from meterproof.kafka.settings import KafkaSettings
from meterproof_local.broker import LocalBroker
from meterproof_schemas.event import entry_of
from meterproof_schemas.fold import LogState
from meterproof_schemas.limits import REJECTED_PAYLOAD_BYTES_MAX
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.reasons import DUPLICATE, Reason
from meterproof_schemas.rejection import Rejection, decode_rejection
from meterproof_schemas.topics import Topic
from tests.integration.stream.workers import Pipeline

GOLDEN = Path(meterproof_schemas.__file__).parent / "golden"
CENTURY_MS = 100 * 366 * 24 * 3600 * 1000
"""A horizon that takes the golden messages' times, which stay as they are for ever."""

pytestmark = pytest.mark.broker


async def outcomes(
    pipeline: Pipeline, partition: int
) -> tuple[dict[int, LogRecord], dict[tuple[int, int | None], Rejection]]:
    """By source offset: the log record; and by (source offset, line): the rejection."""
    state = LogState()
    records = {}
    for record in await pipeline.records(Topic.LOG, partition):
        taken = state.offer(record.offset, record.value)
        if taken is not None and taken.header.source is not None:
            records[taken.header.source.offset] = taken
    rejections = {}
    for record in await pipeline.records(Topic.REJECTED, partition):
        rejection = decode_rejection(record.value)
        rejections[rejection.header.offset, rejection.header.line] = rejection
    return records, rejections


async def test_hostile_batches_are_refused_with_their_reason_and_payload(tmp_path: Path) -> None:
    index: dict[str, Any] = json.loads((GOLDEN / "batches/index.json").read_text())
    # The messages are signed for the topic's full name, so they need a broker without other tests' topics.
    with LocalBroker(tmp_path / "kafka") as own_broker:
        data = tmp_path / "data"
        (data / "keys").mkdir(parents=True)
        for name in ("registry.json", "shared.test-only-secret"):
            shutil.copy(GOLDEN / "batches" / name, data / "keys" / name)
        pipeline = Pipeline(KafkaSettings(bootstrap=own_broker.bootstrap), data, index["partitions"])
        await pipeline.create_topics(horizon_ms=CENTURY_MS, deployment=index["audience"])
        partition = index["partition"]
        sent: list[tuple[str, dict[str, Any], bytes]] = [
            (step["file"], step, (GOLDEN / "batches/hostile" / step["file"]).read_bytes())
            for case, steps in index["hostile"].items()
            for step in steps
            if case != "future-key"  # its key has become valid since
        ]
        with pipeline.worker() as sequencer:
            await pipeline.send(partition, [value or None for _, _, value in sent])
            await pipeline.wait_until_sequenced(sequencer)
            assert sequencer.stop() == CLEAN
        records, rejections = await outcomes(pipeline, partition)
    assert len(records) == len(sent)
    seen: set[str] = set()
    for offset, (name, step, value) in enumerate(sent):
        header = records[offset].header
        assert header.reason == step.get("reason"), name
        if header.reason is not None:
            seen.add(header.reason)
            rejection = rejections[offset, None]
            assert rejection.header.reason == header.reason, name
            assert rejection.payload in {value, value[:REJECTED_PAYLOAD_BYTES_MAX]}, name
            assert rejection.header.payload_bytes == len(value), name
            assert records[offset].lines == [], name
        else:
            assert header.accepted == len(step["lines"]), name
    assert seen >= {
        Reason.MALFORMED_BATCH,
        Reason.TOO_LARGE,
        Reason.WRONG_AUDIENCE,
        Reason.WRONG_PARTITION,
        Reason.BAD_SIGNATURE,
        Reason.UNKNOWN_KEY,
        Reason.REVOKED_KEY,
        Reason.KEY_NOT_ALLOWED,
        Reason.BAD_ROOT,
        Reason.PRODUCER_FORK,
        Reason.UNREADABLE_RECORD,
    }


async def test_hostile_events_are_refused_and_their_neighbours_counted(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path
) -> None:
    index: dict[str, Any] = json.loads((GOLDEN / "events/index.json").read_text())
    hostile = {
        name: (GOLDEN / "events" / name).read_bytes()
        for name in index["hostile"]
        # A line cannot hold a line feed: in a batch it would be two lines.
        if b"\n" not in (GOLDEN / "events" / name).read_bytes()
    }
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path, partitions=1)
    batches = []
    for line in hostile.values():
        before, after = pipeline.new_events(0, 2)
        batches.append(pipeline.batch(0, [before, line, after]))
    with pipeline.worker() as sequencer:
        await pipeline.send(0, batches)
        await pipeline.send(0, batches[:20])  # sent again, to its partition: nothing but repeats
        await pipeline.wait_until_sequenced(sequencer)
        assert sequencer.stop() == CLEAN
    await pipeline.check()
    records, rejections = await outcomes(pipeline, 0)
    for offset, (name, line) in enumerate(hostile.items()):
        wanted = index["hostile"][name]["reason"]
        assert [tuple(verdict) for verdict in records[offset].header.not_accepted] == [
            (1, wanted, entry_of(line).hex())
        ], name
        assert rejections[offset, 1].header.reason == wanted, name
        assert rejections[offset, 1].payload == line, name
    for offset in range(len(batches), len(batches) + 20):
        assert [verdict for _, verdict, _ in records[offset].header.not_accepted].count(DUPLICATE) == 2
        assert records[offset].header.accepted == 0
    assert len(hostile) > 150
