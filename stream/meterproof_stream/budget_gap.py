"""What a person decides about budgets that are new or were changed after a log was trimmed: to count what is left."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_descriptions import partitions_of
from meterproof.kafka.trimming import read_beginnings
from meterproof_schemas.budget import (
    Budget,
    CountedFrom,
    Marker,
    decode_budget_state,
    definition_of,
    encode,
    is_marker_key,
    marker_key,
)
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.log_record import Genesis
from meterproof_schemas.topics import Topic
from meterproof_stream.errors import StreamError
from meterproof_stream.topic_values import genesis_of_log, read_values


class NothingMissing(StreamError):
    """No log needs a decision; nothing was written."""

    def __init__(self) -> None:
        super().__init__(
            "nothing to accept: every log that was trimmed has a marker for these budgets. Start the worker"
        )


@dataclass(frozen=True, slots=True)
class AcceptedGap:
    """From where on a log is counted."""

    partition: int
    log_offset: int
    position: int

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


async def accept_gap(kafka: KafkaSettings, budgets: Sequence[Budget], *, who: str, why: str) -> list[AcceptedGap]:
    """Let these budgets be counted from where each trimmed log begins now, in every log where they have no marker.

    Per log, in this order:

    1. Where it begins, and the signed checkpoint that was remembered for it when it was trimmed; the record there must
       be the signed one.
    2. A marker for these budgets behind that record, which says who decided it and why. The worker goes on from there.

    Raises:
        NothingMissing: there is no such log.
        StageStopped: `log_diverged`: a log does not begin at the record of its checkpoint.
        KafkaProblem: Kafka cannot be used.
    """
    definition = definition_of(budgets)
    beginnings = await read_beginnings(kafka)
    accepted: list[AcceptedGap] = []
    async with RecordProducer(kafka) as producer:
        for partition in range(await partitions_of(kafka, kafka.topic(Topic.LOG))):
            genesis = await genesis_of_log(kafka, partition)
            async with PartitionReader(kafka, kafka.topic(Topic.LOG), partition) as reader:
                start, _ = await reader.bounds()
                if start == 0 or await _is_marked(kafka, genesis, definition):
                    continue
                chain = LogChain()
                beginning = beginnings.get(genesis.origin)
                if beginning is None or beginning.header.log_offset < start:
                    raise chain.diverged(start, "begins the log, and no signed checkpoint is remembered for it")
                header = beginning.header
                found = await reader.at(header.log_offset)  # 1
            cursor = Cursor(genesis.epoch, header.log_offset, header.digest, header.size)
            chain.resume(cursor, None if found is None else found.value)
            marker = Marker(
                v=1,
                marker=True,
                log=genesis.origin,
                epoch=genesis.epoch,
                log_offset=chain.log_offset,
                digest=chain.digest,
                position=chain.position,
                definition=definition,
                clock_ms=chain.clock_ms,
                since=CountedFrom(position=chain.position, clock_ms=chain.clock_ms, who=who, why=why),
            )
            topic = kafka.topic(Topic.BUDGET_STATE)
            await (await producer.send(topic, partition, encode(marker), marker_key(genesis.origin)))  # 2
            accepted.append(AcceptedGap(partition, chain.log_offset, chain.position))
    if not accepted:
        raise NothingMissing
    return accepted


async def _is_marked(kafka: KafkaSettings, genesis: Genesis, definition: str) -> bool:
    """Whether the log's last marker was made for these budgets."""
    last: Marker | None = None
    for key, value in await read_values(kafka, kafka.topic(Topic.BUDGET_STATE), genesis.partition):
        if is_marker_key(key):
            try:
                stored = decode_budget_state(value)
            except InvalidRecord:
                continue
            if isinstance(stored, Marker) and stored.log == genesis.origin:
                last = stored
    return last is not None and last.definition == definition
