"""Offering refused batches again, after the cause of their refusal was repaired: a key registered, a meter declared."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from meterproof.kafka.price_books import read_price_books
from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.keys import KeyRegistry
from meterproof_schemas.price_book import DEFAULT_METERS
from meterproof_schemas.reasons import DUPLICATE, Reason
from meterproof_schemas.rejection import Rejection, decode_rejection
from meterproof_schemas.topics import Topic
from meterproof_stream.judge import Judgement, judge
from meterproof_stream.record_builder import InForce, append_record
from meterproof_stream.take_over import fold_log

REPAIRABLE: Final = (Reason.UNKNOWN_KEY, Reason.KEY_NOT_ALLOWED, Reason.UNKNOWN_METER)
"""What somebody can put right outside of the batch; everything else is in the signed bytes, or in time, for good."""


@dataclass(slots=True)
class Replay:
    """What offering refused batches again comes to, as things stand; counts of batches and of their events."""

    partition: int
    refused_batches: int = 0
    """Source records of which something was refused for one of the reasons."""
    offered_batches: int = 0
    """Those of which something would be accepted now: the others are not sent."""
    accepted_events: int = 0
    """Events that are new to the log."""
    corrections: Counter[str] = field(default_factory=Counter)
    """What the corrections among them will do, by effect: one may come too late to do anything."""
    counted_before: int = 0
    """Events that the log has already: duplicates."""
    refused_again: Counter[str] = field(default_factory=Counter)
    """Events that are refused again, by reason; a whole batch counts as one under `batch:<reason>`."""
    unavailable: list[int] = field(default_factory=list)
    """Source offsets whose signed bytes are gone: deleted from the source, and not whole in `usage.rejected`."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left that was refused."""
        return not self.refused_again and not self.unavailable

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "partition": self.partition,
            "refused_batches": self.refused_batches,
            "offered_batches": self.offered_batches,
            "accepted_events": self.accepted_events,
            "corrections": dict(self.corrections),
            "counted_before": self.counted_before,
            "refused_again": dict(self.refused_again),
            "unavailable": self.unavailable,
        }


async def replay_refused(
    kafka: KafkaSettings,
    partition: int,
    *,
    registry: KeyRegistry,
    reasons: Iterable[Reason],
    now_ms: int,
    dry_run: bool,
) -> Replay:
    """Append refused batches to the source again, byte for byte, so that the sequencer judges them anew.

    Nothing is signed or changed here, so what is accepted stays provable by the producer's own signature. An event that
    was accepted before is a duplicate by its id. A repeat under the same sequence number and root is no fork, and one
    that was refused as a whole fills the gap that it left in its series. Doing it twice sends nothing the second time.

    A correction does what it would if it came now for the first time: it is applied if its event is in the log, or is
    sent again before it. One that the log has accepted already is not judged anew when its event is let in behind it:
    it does nothing, as is stated, and another one is to be sent.

    1. Collect the source offsets with a refusal for one of `reasons`.
    2. Read the signed bytes: from the source, or where it was trimmed, from a refusal that holds the whole batch.
    3. Judge them with the sequencer's own code, on top of the log as it stands, with the keys and meters of now.
    4. Send those of which something would be accepted.

    Raises:
        StageStopped: the log diverged.
        KafkaProblem: Kafka cannot be used.
    """
    replay = Replay(partition)
    refused = await _refused(kafka, partition, frozenset(reasons))  # 1
    replay.refused_batches = len(refused)
    if not refused:
        return replay
    values: dict[int, bytes] = {}
    async with PartitionReader(kafka, kafka.topic(Topic.BATCHES), partition) as reader:  # 2
        start, _ = await reader.bounds()
        for offset, whole in sorted(refused.items()):
            record = await reader.at(offset) if offset >= start else None
            value = whole if record is None else record.value
            if value is None:
                replay.unavailable.append(offset)
            else:
                values[offset] = value
    books = await read_price_books(kafka)
    meters = frozenset(meter.name for meter in (books[max(books)].meters if books else DEFAULT_METERS))
    in_force = InForce(registry.digest, max(books, default=0), "0" * 32, -1)
    state = (await fold_log(kafka, partition)).state
    offered: list[bytes] = []
    for value in dict.fromkeys(values.values()):  # 3
        judgement = judge(
            value,
            partition=partition,
            offset=state.next_source_offset,
            append_ms=now_ms,
            state=state,
            registry=registry,
            meters=meters,
            books=books,
        )
        _count(replay, judgement)
        if judgement.accepted:
            offered.append(value)
            due = state.next_source_offset
            append_record(state, judgement, log_offset=state.log_offset + 1, source_offset=due, in_force=in_force)
    replay.offered_batches = len(offered)
    if offered and not dry_run:
        async with RecordProducer(kafka) as producer:  # 4
            for value in offered:
                await (await producer.send(kafka.topic(Topic.BATCHES), partition, value))
    return replay


def _count(replay: Replay, judgement: Judgement) -> None:
    replay.accepted_events += judgement.accepted
    replay.corrections.update(effect.value for _, effect in judgement.corrections)
    for _, verdict, _ in judgement.not_accepted:
        if verdict == DUPLICATE:
            replay.counted_before += 1
        else:
            replay.refused_again[verdict] += 1
    if judgement.reason is not None:
        replay.refused_again[f"batch:{judgement.reason}"] += 1


async def _refused(kafka: KafkaSettings, partition: int, reasons: frozenset[Reason]) -> dict[int, bytes | None]:
    """By source offset: the whole batch where a refusal holds it."""
    found: dict[int, bytes | None] = {}
    async with PartitionReader(kafka, kafka.topic(Topic.REJECTED), partition) as reader:
        async for records in reader.read(*await reader.bounds()):
            for record in records:
                try:
                    rejection = decode_rejection(record.value)
                except InvalidRecord:
                    continue
                if rejection.header.reason in reasons:
                    offset = rejection.header.offset
                    found[offset] = found.get(offset) or _whole_batch(rejection)
    return found


def _whole_batch(rejection: Rejection) -> bytes | None:
    if rejection.header.line is not None or hashlib.sha256(rejection.payload).hexdigest() != rejection.header.digest:
        return None
    return rejection.payload
