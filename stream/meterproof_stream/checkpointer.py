"""The checkpointer: signs (origin, size, root) of each log, and never a second root for a size."""

from collections.abc import Sequence
from typing import Any, Final

import structlog

from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.log_key import LogKey
from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.frontier import Frontier, leaf_hashes
from meterproof_proofs.note import Signer
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.checkpoint_record import (
    CheckpointHeader,
    CheckpointRecord,
    checkpoint_key,
    decode_checkpoint_record,
    encode_checkpoint_record,
)
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.event import entry_of
from meterproof_schemas.log_record import Genesis, LogRecord, decode_record, frontier_of
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic
from meterproof_stream.topic_values import genesis_of_log, read_values

_log: Final = structlog.get_logger("meterproof.checkpointer")


class CheckpointLane:
    """One log's checkpoints: re-derives every root from the lines, signs the newest record boundary at each flush.

    Promises: a checkpoint is signed only if its root follows from the lines of the log, which extends the largest
    checkpoint on `usage.checkpoints`; each size is signed with one root for ever, since a root follows from the log
    alone and a log that contradicts it stops the stage.
    """

    def __init__(
        self,
        *,
        chain: LogChain,
        frontier: Frontier,
        signer: Signer,
        producer: RecordProducer,
        topic: str,
        signed_size: int,
    ) -> None:
        self.chain = chain
        self._frontier = frontier
        self._signer = signer
        self._producer = producer
        self._topic = topic
        self.signed_size = signed_size
        """Size of the largest checkpoint that is durable."""
        self.signed = 0
        """Checkpoints signed since the take-over."""

    def take(self, offset: int, record: LogRecord) -> None:
        """See `StageLane.take`.

        Raises:
            StageStopped: `log_diverged` when a record states a root that does not follow from its lines.
        """
        self._frontier.extend(leaf_hashes([entry_of(line) for line in record.lines]))
        if self._frontier.size != record.header.size or self._frontier.root().hex() != record.header.root:
            raise self.chain.diverged(offset, "states a size or root that does not follow from its accepted lines")

    async def flush(self) -> None:
        """Sign the log's present size if it grew: 1. sign, 2. produce, 3. wait for Kafka, 4. count it."""
        size = self.chain.position
        if size == self.signed_size:
            return
        checkpoint = Checkpoint(self._signer.name, size, self._frontier.root())
        header = CheckpointHeader(
            v=1,
            origin=self._signer.name,
            size=size,
            log_offset=self.chain.log_offset,
            digest=self.chain.digest,
            clock_ms=self.chain.clock_ms,
        )
        value = encode_checkpoint_record(CheckpointRecord(header, sign_checkpoint(checkpoint, [self._signer])))
        await (await self._producer.send(self._topic, 0, value, checkpoint_key(header)))
        self.signed_size = size
        self.signed += 1

    def status(self) -> dict[str, Any]:
        """See `StageLane.status`."""
        return {"origin": self._signer.name, "signed_size": self.signed_size, "checkpoints": self.signed}


class CheckpointLanes:
    """Opens the lanes of a checkpointer. Lives from `start` to `stop`."""

    def __init__(self, kafka: KafkaSettings, key: LogKey) -> None:
        self._kafka = kafka
        self._key = key
        self._producer = RecordProducer(kafka)

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._producer.stop()

    async def open(self, partition: int) -> CheckpointLane:
        """Take a log over, in this order.

        1. Read the log's genesis, from the log or, where it was trimmed, from `usage.checkpoints`.
        2. Find the largest checkpoint of this partition on `usage.checkpoints`; one of another epoch, or one that our
           key did not sign, stops the stage.
        3. Compare it with the record that it names: that record's root and frontier must be the signed ones.
        4. Go on behind that record, or from the genesis where nothing was signed yet.

        Raises:
            StageStopped: `log_diverged`.
            KafkaProblem: a topic cannot be read.
        """
        async with PartitionReader(self._kafka, self._kafka.topic(Topic.LOG), partition) as reader:
            genesis = await genesis_of_log(self._kafka, partition)  # 1
            signer = self._key.signer(genesis.origin)
            values = await read_values(self._kafka, self._kafka.topic(Topic.CHECKPOINTS))
            largest = largest_checkpoint(values, genesis, signer)  # 2
            chain, frontier = LogChain(), Frontier()
            if largest is not None:
                header, checkpoint = largest
                found = await reader.at(header.log_offset)  # 3
                cursor = Cursor(genesis.epoch, header.log_offset, header.digest, header.size)
                chain.resume(cursor, None if found is None else found.value)
                if found is not None and found.value is not None:
                    frontier = frontier_of(decode_record(found.value).header)
                if frontier.root() != checkpoint.root:
                    raise chain.diverged(
                        header.log_offset, "has another root than the checkpoint that was signed for it"
                    )
            elif (await reader.bounds())[0] > 0:
                raise StageStopped(
                    StopReason.LOG_DIVERGED,
                    f"partition {partition} of the log was trimmed and no checkpoint of it is known, so nothing can be "
                    "signed. Restore usage.checkpoints.",
                )
        return CheckpointLane(
            chain=chain,
            frontier=frontier,
            signer=signer,
            producer=self._producer,
            topic=self._kafka.topic(Topic.CHECKPOINTS),
            signed_size=0 if largest is None else largest[0].size,
        )


def largest_checkpoint(
    values: Sequence[tuple[bytes, bytes]], genesis: Genesis, signer: Signer
) -> tuple[CheckpointHeader, Checkpoint] | None:
    """The largest checkpoint of a log among the records (key, value) of `usage.checkpoints`, verified.

    Raises:
        StageStopped: `log_diverged`: one of this partition has another epoch or is not signed by our key, or two of one
            size have different roots.
    """
    largest: tuple[CheckpointHeader, Checkpoint] | None = None
    roots: dict[int, bytes] = {}
    for key, value in values:
        if key.endswith(b"|genesis"):
            continue
        try:
            record = decode_checkpoint_record(value)
        except InvalidRecord as error:
            _log.warning("checkpoint_ignored", error=str(error))
            continue
        origin = record.header.origin
        if origin.rpartition("/")[2] != f"p{genesis.partition}":
            continue
        if origin != genesis.origin:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"usage.checkpoints holds a checkpoint of {origin}, but the log is {genesis.origin}: the log was "
                "re-created. Restore it, or start a new deployment with empty topics.",
            )
        try:
            checkpoint = open_checkpoint(record.note, [signer.verifier], origin=origin)
        except ProofError as error:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"usage.checkpoints holds a checkpoint of {origin} at size {record.header.size} that this deployment's "
                f"log key did not sign ({error}). Start with the right key file.",
            ) from None
        if (
            roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root
            or checkpoint.size != record.header.size
        ):
            raise StageStopped(
                StopReason.LOG_DIVERGED, f"usage.checkpoints holds two roots for size {checkpoint.size} of {origin}."
            )
        if largest is None or checkpoint.size > largest[0].size:
            largest = (record.header, checkpoint)
    return largest
