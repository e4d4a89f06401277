"""Whether a source topic is still the one that a log was made from."""

from typing import Final

from meterproof.kafka.reader import PartitionReader, Record
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.log_record import record_digest
from meterproof_schemas.reasons import StopReason
from meterproof_stream.lane import Lane

SOURCE_ANCHORS_COMPARED: Final = 3
"""Source records that are compared with the log beside the last one, each time."""


async def check_source(reader: PartitionReader, topic: str, lane: Lane) -> None:
    """Compare the source topic with what the log says of it: its last record, and some that are older.

    A record is the same if its bytes and its append time are: a topic that was created again and filled with the same
    batches has other times, so it is noticed whatever stands on it.

    Right also while the lane takes records and old ones are deleted from the topic, since what a log says stays true:

    1. What was due before the bounds were asked for cannot be behind the end.
    2. What is due after that cannot be before the beginning, unless it was deleted.
    3. What the log says is taken at one moment. Nothing of a lane that is closed: a take-over may be folding on.
    4. A record that is not there is another one only if the topic still begins before it.

    Args:
        reader: of the lane's partition of the topic.
        topic: its name.
        lane: whose log is compared.

    Raises:
        StageStopped: `source_lost` when records that are due were deleted; `source_diverged` when it is another topic.
        KafkaProblem: the topic cannot be read.
    """
    partition = lane.partition
    due = lane.next
    start, end = await reader.bounds()
    if lane.closed:
        return
    if end < due:  # 1
        raise StageStopped(
            StopReason.SOURCE_DIVERGED,
            f"{topic}[{partition}] ends at offset {end}, but its log already holds offsets up to {due}: the topic "
            "was re-created or truncated. Restore it, or start a new deployment.",
        )
    due, last = lane.next, lane.last  # 3
    anchors = [each for each in lane.state.anchors.spread(start, SOURCE_ANCHORS_COMPARED) if each.offset < due - 1]
    if start > due:  # 2
        raise source_lost(topic, partition, due, start)
    # Oldest first: a read near the end leaves a request behind that waits for more.
    for anchor in anchors:
        record = await reader.at(anchor.offset)
        if record is None and await _was_deleted(reader, anchor.offset):  # 4
            continue
        if record is None or record.value is None or record_digest(record.value) != anchor.digest:
            raise _source_diverged(topic, partition, anchor.offset, "another record")
        if record.timestamp_ms != anchor.append_ms:
            raise _source_diverged(topic, partition, anchor.offset, "the same record, appended at another time,")
    source = None if last is None else last.source
    if last is None or source is None or start >= due:
        return
    record = await reader.at(due - 1)
    if record is None and await _was_deleted(reader, due - 1):  # 4
        return
    digest = _digest_of(record)
    if digest != source.digest and not (last.kind == "quarantined" and source.digest is None):
        raise _source_diverged(topic, partition, due - 1, "another record")
    if record is not None and digest is not None and digest == source.digest and record.timestamp_ms != last.append_ms:
        raise _source_diverged(topic, partition, due - 1, "the same record, appended at another time,")


async def _was_deleted(reader: PartitionReader, offset: int) -> bool:
    return (await reader.bounds())[0] > offset


def _digest_of(record: Record | None) -> str | None:
    return None if record is None or record.value is None else record_digest(record.value)


def _source_diverged(topic: str, partition: int, offset: int, found: str) -> StageStopped:
    return StageStopped(
        StopReason.SOURCE_DIVERGED,
        f"{topic}[{partition}] holds {found} at offset {offset} than the one that its log was made from. "
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
