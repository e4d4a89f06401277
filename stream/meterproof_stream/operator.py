"""What a person decides about one partition's source, recorded in its log with the sequencer's own code."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from meterproof.kafka.errors import KafkaRefused
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.log_record import Operator
from meterproof_schemas.topics import Topic
from meterproof_stream.errors import StreamError
from meterproof_stream.judge import Judgement, judge_lost, judge_quarantined
from meterproof_stream.lane import Lane
from meterproof_stream.room import Room
from meterproof_stream.take_over import FoldedLog, fold_log

_WRITER_BYTES = 16
_NO_REGISTRY = "0" * 64
"""A person's decision rests on no key registry."""


class DecisionRefused(StreamError):
    """The decision does not fit what the log and the source say; nothing was recorded."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that stands in the log."""

    kind: str
    partition: int
    source_offset: int
    source_count: int
    log_offset: int

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


async def quarantine(
    kafka: KafkaSettings, partition: int, offset: int, *, who: str, why: str, random_bytes: Callable[[int], bytes]
) -> Decision:
    """Set the source record that is due aside, unjudged, with the first 64 KiB of its payload kept in `usage.rejected`.

    Raises:
        DecisionRefused: `offset` is not the one that is due.
        StageStopped: the log diverged, or another writer was faster.
        KafkaProblem: Kafka cannot be used.
    """
    folded = await fold_log(kafka, partition)
    due = folded.state.next_source_offset
    if offset != due:
        where = "is in the log already" if offset < due else f"comes after offset {due}, which is due"
        raise DecisionRefused(
            f"offset {offset} of partition {partition} {where}; only the record that is due can be set aside"
        )
    async with PartitionReader(kafka, kafka.topic(Topic.BATCHES), partition) as reader:
        _, end = await reader.bounds()
        if offset >= end:
            raise DecisionRefused(f"partition {partition} holds no record at offset {offset} yet")
        try:
            record = await reader.at(offset)
        except KafkaRefused:  # bytes that the client library cannot take apart: that may be why it is set aside
            record = None
    judgement = judge_quarantined(
        None if record is None else record.value,
        partition=partition,
        offset=offset,
        append_ms=None if record is None else record.timestamp_ms,
        state=folded.state,
        why=why,
    )
    return await _record(
        kafka, partition, folded, judgement, operator=Operator(who=who, why=why), random_bytes=random_bytes
    )


async def accept_gap(
    kafka: KafkaSettings, partition: int, *, who: str, why: str, random_bytes: Callable[[int], bytes]
) -> Decision:
    """Record that the source offsets from the one that is due up to the source's beginning are lost.

    Raises:
        DecisionRefused: nothing is lost.
        StageStopped: the log diverged, or another writer was faster.
        KafkaProblem: Kafka cannot be used.
    """
    folded = await fold_log(kafka, partition)
    due = folded.state.next_source_offset
    async with PartitionReader(kafka, kafka.topic(Topic.BATCHES), partition) as reader:
        start, _ = await reader.bounds()
    if start <= due:
        raise DecisionRefused(
            f"nothing is lost in partition {partition}: offset {due} is due and the topic begins at {start}"
        )
    return await _record(
        kafka,
        partition,
        folded,
        judge_lost(folded.state),
        source_count=start - due,
        operator=Operator(who=who, why=why),
        random_bytes=random_bytes,
    )


async def _record(
    kafka: KafkaSettings,
    partition: int,
    folded: FoldedLog,
    judgement: Judgement,
    *,
    source_count: int = 1,
    operator: Operator,
    random_bytes: Callable[[int], bytes],
) -> Decision:
    source_offset = folded.state.next_source_offset
    async with RecordProducer(kafka) as producer:
        lane = Lane(
            partition=partition,
            state=folded.state,
            last=folded.last,
            log_end=folded.end,
            writer=random_bytes(_WRITER_BYTES).hex(),
            generation=-1,
            kafka=kafka,
            producer=producer,
            room=Room(),
            on_failure=_raised_by_quiesce,
        )
        await lane.submit(
            judgement,
            source_offset=source_offset,
            source_count=source_count,
            registry=_NO_REGISTRY,
            price_book=0,
            operator=operator,
        )
        await lane.quiesce()
    return Decision(judgement.kind, partition, source_offset, source_count, lane.log_end - 1)


def _raised_by_quiesce(_: BaseException) -> None:
    """A lane's failure comes out of the next call to it."""
