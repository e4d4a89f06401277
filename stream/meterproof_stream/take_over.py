"""Taking a partition over: what the log says, and whether the source is still the one that it was made from.

The log is the sequencer's only state. It is read from the genesis, or, for a partition that stayed with its owner over
a rebalance, from the owner's own expected offset.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topics import read_geneses
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import Genesis, RecordHeader, decode_record, record_digest
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic


@dataclass(frozen=True, slots=True)
class FoldedLog:
    """One partition's log as it stands."""

    state: LogState
    end: int
    """The physical offset that the next record of the log will get."""
    last: RecordHeader | None
    """The last record accepted while reading; None if none was."""


async def fold_log(kafka: KafkaSettings, partition: int, kept: tuple[LogState, int] | None = None) -> FoldedLog:
    """Fold a partition's log to its end; `kept` is a state and the physical offset behind what it holds.

    Raises:
        StageStopped: `log_diverged`.
        KafkaProblem: the log cannot be read.
    """
    topic = kafka.topic(Topic.LOG)
    state, begin = (LogState(), 0) if kept is None else kept
    last: RecordHeader | None = None
    async with PartitionReader(kafka, topic, partition) as reader:
        start, end = await reader.bounds()
        if start > begin or end < begin:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"{topic}[{partition}] holds offsets {start} to {end}, and is to be read from {begin}: it was trimmed, "
                "truncated or re-created. Restore the topic from the audit folder, or start a new deployment.",
            )
        async for records in reader.read(begin, end):
            for record in records:
                accepted = state.offer(record.offset, record.value)
                if accepted is not None:
                    last = accepted.header
    return FoldedLog(state, end, last)


def check_genesis(
    state: LogState, partition: int, *, partitions: int, source_topic: str, kept: Mapping[int, Genesis]
) -> None:
    """Compare the log's genesis with the topic that is to be sequenced, and with the copy in `usage.checkpoints`.

    Raises:
        StageStopped: `log_diverged` when there is no genesis, or it is another partition's, topic's or log's.
    """
    genesis = state.genesis
    if genesis is None:
        fault = "has no genesis record; create it with `meterproof topics create`"
    elif genesis.partition != partition:
        fault = f"is the log of partition {genesis.partition}"
    elif genesis.partitions != partitions:
        fault = f"was created for {genesis.partitions} partitions, but {source_topic} has {partitions}"
    elif genesis.source_topic != source_topic:
        fault = f"was made from {genesis.source_topic}, not from {source_topic}"
    elif kept.get(partition, genesis) != genesis:
        fault = (
            f"has epoch {genesis.epoch}, but usage.checkpoints remembers epoch {kept[partition].epoch}: the topic was "
            "re-created. Restore it from the audit folder, or start a new deployment with empty topics"
        )
    else:
        return
    raise StageStopped(StopReason.LOG_DIVERGED, f"the log of partition {partition} {fault}.")


async def first_geneses(kafka: KafkaSettings) -> dict[int, Genesis]:
    """By partition, the oldest genesis that `usage.checkpoints` remembers.

    Raises:
        KafkaProblem: the topic cannot be read.
    """
    geneses: dict[int, Genesis] = {}
    for value in (await read_geneses(kafka)).values():
        try:
            genesis = decode_record(value).header.genesis
        except InvalidRecord:
            continue
        if genesis is not None:
            geneses.setdefault(genesis.partition, genesis)
    return geneses


async def check_source(kafka: KafkaSettings, partition: int, state: LogState, last: RecordHeader | None) -> None:
    """Compare the source topic with what the log says of it; `last` is the log's last record.

    Raises:
        StageStopped: `source_lost` when records that are due were deleted; `source_diverged` when it is another topic.
    """
    topic = kafka.topic(Topic.BATCHES)
    due = state.next_source_offset
    async with PartitionReader(kafka, topic, partition) as reader:
        start, end = await reader.bounds()
        if end < due:
            raise StageStopped(
                StopReason.SOURCE_DIVERGED,
                f"{topic}[{partition}] ends at offset {end}, but its log already holds offsets up to {due}: the topic "
                "was re-created or truncated. Restore it, or start a new deployment.",
            )
        if start > due:
            raise source_lost(topic, partition, due, start)
        source = None if last is None else last.source
        if source is None or start >= due:
            return
        record = await reader.at(due - 1)
    digest = None if record is None or record.value is None else record_digest(record.value)
    if digest != source.digest and not (last is not None and last.kind == "quarantined" and source.digest is None):
        raise StageStopped(
            StopReason.SOURCE_DIVERGED,
            f"{topic}[{partition}] holds another record at offset {due - 1} than the one that its log was made from. "
            "The topic was re-created. Restore it, or start a new deployment.",
        )


def source_lost(topic: str, partition: int, due: int, start: int) -> StageStopped:
    """The error for source records that were deleted before they were sequenced."""
    return StageStopped(
        StopReason.SOURCE_LOST,
        f"{topic}[{partition}] begins at offset {start}, but offset {due} is due: {start - due} offsets were deleted "
        "before they were sequenced. Restore them, or record the loss with "
        f"`meterproof sequencer accept-gap {partition} --reason … --who …`.",
    )
