"""A record by which the rule itself fails: never passed by, until a person sets it aside; no neighbour is lost."""

import functools
import os
from pathlib import Path

import pytest

from meterproof_local.broker import LocalBroker
from meterproof_schemas.log_record import decode_record
from meterproof_schemas.topics import Topic
from meterproof_stream.judge import Judgement, judge_opened
from meterproof_stream.opened_record import OpenedRecord
from meterproof_stream.operator import quarantine
from tests.integration.stream.test_source_watch import Fed, until
from tests.integration.stream.workers import Pipeline

pytestmark = pytest.mark.broker

POISON = b"the rule fails by this"


class _RuleFailed(Exception):
    """A fault of the rule, which nobody foresaw."""


async def test_a_record_by_which_the_rule_fails_stops_the_partition_until_a_person_decides(
    broker: LocalBroker, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(opened: OpenedRecord, **arguments: object) -> Judgement:
        if opened.value == POISON:
            raise _RuleFailed
        return judge_opened(opened, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("meterproof_stream.sequencer.judge_opened", fails)
    pipeline = await Pipeline.create(broker.bootstrap, topic_prefix, tmp_path / "data", partitions=1)
    fed = Fed(pipeline)
    async with fed.running():
        await fed.feed(2)
    await pipeline.send(0, [POISON, pipeline.batch(0, pipeline.new_events(0, 2))])
    for _ in range(2):  # also after a new start it is due, and what comes behind it waits
        async with fed.running() as sequencer:
            assert sequencer.next_offsets() == {0: 2}
            with pytest.raises(_RuleFailed):
                await sequencer.feed(0, 2, POISON, 0, lambda: fed.acknowledged.add(2))
            assert fed.acknowledged == {0, 1}
    await quarantine(pipeline.kafka, 0, 2, who="Ada", why="the rule fails by it", random_bytes=os.urandom)
    async with fed.running() as sequencer:
        assert sequencer.next_offsets() == {0: 3}
        neighbour = (await pipeline.records(Topic.BATCHES, 0))[3]
        acknowledge = functools.partial(fed.acknowledged.add, 3)
        await sequencer.feed(0, 3, neighbour.value, neighbour.timestamp_ms, acknowledge)
        await until(lambda: 3 in fed.acknowledged)
    assert fed.failures == []
    await pipeline.check()
    state = await pipeline.log(0)
    assert state.counts["record:quarantined"] == 1
    records = [decode_record(record.value or b"").header for record in await pipeline.records(Topic.LOG, 0)]
    (decided,) = [header.operator for header in records if header.kind == "quarantined"]
    assert decided is not None
    assert (decided.who, decided.why) == ("Ada", "the rule fails by it")
