"""The checkpointer: signs (origin, size, root) of each log's two trees, and never a second root for a size."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from meterproof.kafka.producer import RecordProducer
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.log_key import LogKeys
from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.note import SignedNote, Signer
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.checkpoint_record import (
    CheckpointHeader,
    CheckpointRecord,
    RecordsCheckpoint,
    checkpoint_key,
    decode_checkpoint_record,
    encode_checkpoint_record,
    records_frontier,
)
from meterproof_schemas.errors import InvalidRecord, StageStopped
from meterproof_schemas.event import entry_of
from meterproof_schemas.log_record import Genesis, LogRecord, decode_record, frontier_of
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.records_tree import head_entry, head_of, records_origin
from meterproof_schemas.topics import Topic
from meterproof_stream.signed_before import Remembered, SignedBefore, SigningMemory
from meterproof_stream.topic_values import genesis_of_log, read_values
from meterproof_stream.witness_folder import WitnessFolder

_LOOK_BACK_OFFSETS: Final = 100_000
"""How far behind the largest checkpoint a take-over goes to compare smaller ones that are remembered elsewhere."""

_log: Final = structlog.get_logger("meterproof.checkpointer")


@dataclass(frozen=True, slots=True)
class PublishedPair:
    """The checkpoints of one record of `usage.checkpoints`, verified with our keys."""

    header: CheckpointHeader
    events: Checkpoint
    records: Checkpoint | None
    """None in a record from before there was a second tree."""
    fully_signed: bool
    """Whether each of our keys signed both."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Entries of both trees: what pairs of one log are ordered by."""
        return self.events.size, 0 if self.records is None else self.records.size


@dataclass(frozen=True, slots=True)
class TreeSigners:
    """Our keys under the names of one log's two trees."""

    events: list[Signer]
    records: list[Signer]

    @classmethod
    def of(cls, keys: LogKeys, origin: str) -> "TreeSigners":
        """The signers of a log."""
        return cls(keys.signers(origin), keys.signers(records_origin(origin)))

    def open(self, note: bytes, origin: str) -> Checkpoint:
        """Verify a note that one of our keys signed for a tree.

        Raises:
            ProofError: it is none.
        """
        signers = self.records if origin == self.records[0].name else self.events
        return open_checkpoint(note, [signer.verifier for signer in signers], origin=origin)


class CheckpointLane:
    """One log's checkpoints: re-derives every root from the lines, signs the newest record boundary at each flush.

    Promises: a checkpoint is signed only if its root follows from the lines of the log, and the log gives every root
    that is known to be signed before; each size is signed with one root for ever, since a root follows from the log
    alone and a log that contradicts it stops the stage. Where there is a witness folder, it has a checkpoint before
    anybody else does.
    """

    def __init__(
        self,
        *,
        chain: LogChain,
        frontier: Frontier,
        heads: Frontier,
        before: SignedBefore,
        signers: TreeSigners,
        producer: RecordProducer,
        topic: str,
        witness: WitnessFolder | None,
        published: PublishedPair | None,
    ) -> None:
        self.chain = chain
        self._frontier = frontier
        self._heads = heads
        """Of the second tree."""
        self._before = before
        self._signers = signers
        self._producer = producer
        self._topic = topic
        self._witness = witness
        self._origins = signers.events[0].name, signers.records[0].name
        self._published_sizes = None if published is None or not published.fully_signed else published.sizes
        """Sizes of both trees in the largest pair that is durable with all our signatures."""
        self.signed_size = 0 if published is None else published.events.size
        """Size of the largest checkpoint that is durable."""
        self.signed = 0
        """Pairs signed since the take-over."""
        self._roots: dict[tuple[str, int], bytes] = {}
        """Roots since the last pair that was signed, by tree and size."""
        self._note_roots()

    def take(self, offset: int, record: LogRecord) -> None:
        """See `StageLane.take`.

        Raises:
            StageStopped: `log_diverged` when a record states a root that does not follow from its lines, or another
                root was signed.
        """
        self._frontier.extend(leaf_hashes([entry_of(line) for line in record.lines]))
        self._heads.extend(leaf_hashes([head_entry(head_of(record))]))
        if self._frontier.size != record.header.size or self._frontier.root().hex() != record.header.root:
            raise self.chain.diverged(offset, "states a size or root that does not follow from its accepted lines")
        if not self._before.is_met:
            for origin, tree in zip(self._origins, (self._frontier, self._heads), strict=True):
                self._before.meet(origin, tree.size, tree.root())
        if self._witness is not None:
            self._note_roots()

    async def flush(self) -> None:
        """Sign what the log is now if it grew, or if a key of ours has not signed it yet.

        1. Sign both trees, as they are now: the log goes on while this waits. 2. Have the witness folder remember them.
        3. Produce one record with both. 4. Wait for Kafka. 5. Count them.

        Raises:
            StageStopped: `log_diverged` or `fenced`: the witness folder contradicts, or is ahead.
            OSError: the witness folder cannot be written.
        """
        sizes = self._frontier.size, self._heads.size
        if sizes == self._published_sizes or self._heads.size == 0 or not self._before.is_met:
            return
        notes = [  # 1
            sign_checkpoint(Checkpoint(origin, tree.size, tree.root()), signers)
            for origin, tree, signers in (
                (self._origins[0], self._frontier, self._signers.events),
                (self._origins[1], self._heads, self._signers.records),
            )
        ]
        header = CheckpointHeader(
            v=1,
            origin=self._origins[0],
            size=sizes[0],
            log_offset=self.chain.log_offset,
            digest=self.chain.digest,
            clock_ms=self.chain.clock_ms,
            records=RecordsCheckpoint(
                size=sizes[1], frontier=b"".join(self._heads.hashes).hex(), note=notes[1].decode()
            ),
        )
        value = encode_checkpoint_record(CheckpointRecord(header, notes[0]))
        if self._witness is not None:
            await asyncio.to_thread(self._witness.remember, notes, self._root_at)  # 2
        await (await self._producer.send(self._topic, 0, value, checkpoint_key(header)))  # 3, 4
        self._published_sizes = sizes  # 5
        self.signed_size = sizes[0]
        self.signed += 1
        # What was signed before is behind whatever the witness folder holds from now on.
        signed = dict(zip(self._origins, sizes, strict=True))
        self._roots = {place: root for place, root in self._roots.items() if place[1] >= signed[place[0]]}

    def status(self) -> dict[str, Any]:
        """See `StageLane.status`."""
        return {
            "origin": self._origins[0],
            "signed_size": self.signed_size,
            "signed_records": 0 if self._published_sizes is None else self._published_sizes[1],
            "checkpoints": self.signed,
        }

    def _note_roots(self) -> None:
        for origin, tree in zip(self._origins, (self._frontier, self._heads), strict=True):
            if (origin, tree.size) not in self._roots:
                self._roots[origin, tree.size] = tree.root()

    def _root_at(self, origin: str, size: int) -> bytes | None:
        return self._roots.get((origin, size))


class CheckpointLanes:
    """Opens the lanes of a checkpointer. Lives from `start` to `stop`."""

    def __init__(
        self,
        kafka: KafkaSettings,
        keys: LogKeys,
        *,
        witness: WitnessFolder | None = None,
        memories: Sequence[SigningMemory] = (),
    ) -> None:
        """Take the keys that sign, and what remembers signed checkpoints besides Kafka.

        Args:
            kafka: where the logs and `usage.checkpoints` are.
            keys: one, or two while one replaces the other.
            witness: asked on take-over, and written before every checkpoint is published.
            memories: asked on take-over.

        """
        self._kafka = kafka
        self._keys = keys
        self._witness = witness
        self._memories = [*memories, *([] if witness is None else [witness])]
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
        2. Find the checkpoints of this partition on `usage.checkpoints`; one of another epoch, or a largest one that
           none of our keys signed, stops the stage.
        3. Ask the witness folder and the other memories for theirs.
        4. Begin behind the record of a checkpoint that none of these is smaller than, or at the genesis. That record's
           root and frontier must be the signed ones.
        5. Read the log to its end if any of them is larger: every root that was signed must be the log's, and the log
           must reach them all.

        Raises:
            StageStopped: `log_diverged`.
            KafkaProblem: a topic cannot be read.
            OSError: a memory cannot be read.
        """
        async with PartitionReader(self._kafka, self._kafka.topic(Topic.LOG), partition) as reader:
            genesis = await genesis_of_log(self._kafka, partition)  # 1
            signers = TreeSigners.of(self._keys, genesis.origin)
            values = await read_values(self._kafka, self._kafka.topic(Topic.CHECKPOINTS))
            published = published_pairs(values, genesis, signers)  # 2
            remembered = await asyncio.to_thread(self._remembered, genesis.origin, signers)  # 3
            start, end = await reader.bounds()
            base = _base(published, remembered, start)
            chain, frontier, heads = LogChain(), Frontier(), Frontier()
            if base is not None:  # 4
                header = base.header
                found = await reader.at(header.log_offset)
                cursor = Cursor(genesis.epoch, header.log_offset, header.digest, header.size)
                chain.resume(cursor, None if found is None else found.value)
                if found is not None and found.value is not None:
                    frontier = frontier_of(decode_record(found.value).header)
                if header.records is not None:
                    heads = records_frontier(header.records)
                if frontier.root() != base.events.root or base.records is None or heads.root() != base.records.root:
                    raise chain.diverged(
                        header.log_offset, "has another root or frontier than the checkpoint that was signed for it"
                    )
            elif start > 0:
                raise StageStopped(
                    StopReason.LOG_DIVERGED,
                    f"partition {partition} of the log was trimmed and no checkpoint of what is left of it is known, "
                    "so nothing can be signed. Restore usage.checkpoints.",
                )
            before = SignedBefore(_not_below(base, [*remembered, *_as_remembered(published)]))
            lane = CheckpointLane(
                chain=chain,
                frontier=frontier,
                heads=heads,
                before=before,
                signers=signers,
                producer=self._producer,
                topic=self._kafka.topic(Topic.CHECKPOINTS),
                witness=self._witness,
                published=published[-1] if published else None,
            )
            if base is not None:
                before.meet(base.events.origin, base.events.size, base.events.root)
                before.meet(records_origin(base.events.origin), heads.size, heads.root())
            if not before.is_met and chain.log_offset + 1 < end:  # 5
                async for chunk in reader.read(chain.log_offset + 1, end):
                    for one in chunk:
                        record = chain.offer(one.offset, one.value)
                        if record is not None:
                            lane.take(one.offset, record)
            before.must_be_met()
        return lane

    def _remembered(self, origin: str, signers: TreeSigners) -> list[Remembered]:
        """What the memories know of a log's trees, verified."""
        found: list[Remembered] = []
        for memory in self._memories:
            for note in memory.notes(origin):
                try:
                    tree = Checkpoint.parse(SignedNote.parse(note).text).origin
                    found.append(Remembered(signers.open(note, tree), memory.where))
                except ProofError as error:
                    raise StageStopped(
                        StopReason.LOG_DIVERGED,
                        f"{memory.where} holds a checkpoint of {origin} that no log key given here signed ({error}). "
                        "Start with the right key file.",
                    ) from None
        return found


def published_pairs(
    values: Sequence[tuple[bytes, bytes]], genesis: Genesis, signers: TreeSigners
) -> list[PublishedPair]:
    """The checkpoints of a log among the records (key, value) of `usage.checkpoints`, verified, smallest first.

    One that none of our keys signed proves nothing, and anyone who may write to the topic may have put it there; it is
    left out. But if it claims more than the largest of ours, the key may be the wrong one: then this stops.

    Raises:
        StageStopped: `log_diverged`: one of this partition has another epoch; the largest is not signed by our key; or
            two of one size have different roots.
    """
    pairs: list[PublishedPair] = []
    unverified: list[tuple[tuple[int, int], str]] = []
    for key, value in values:
        if key.endswith(b"|genesis"):
            continue
        try:
            record = decode_checkpoint_record(value)
        except InvalidRecord as error:
            _log.warning("checkpoint_ignored", error=str(error))
            continue
        header = record.header
        origin = header.origin
        if origin.rpartition("/")[2] != f"p{genesis.partition}":
            continue
        if origin != genesis.origin:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"usage.checkpoints holds a checkpoint of {origin}, but the log is {genesis.origin}: the log was "
                "re-created. Restore it, or start a new deployment with empty topics.",
            )
        try:
            pair = _verified(record, signers)
        except ProofError as error:
            unverified.append(((header.size, 0 if header.records is None else header.records.size), str(error)))
            continue
        if pair.events.size != header.size or (header.records and pair.sizes[1] != header.records.size):
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"usage.checkpoints holds a checkpoint of {origin} whose header says size {header.size} and whose note "
                f"says {pair.events.size}.",
            )
        pairs.append(pair)
    # Of two with the same sizes the one with all signatures counts.
    pairs.sort(key=lambda pair: (pair.sizes, pair.fully_signed))
    for sizes, fault in unverified:
        if not pairs or sizes > pairs[-1].sizes:
            raise StageStopped(
                StopReason.LOG_DIVERGED,
                f"usage.checkpoints holds a checkpoint of {genesis.origin} at size {sizes[0]} that no log key given "
                f"here signed ({fault}). Start with the right key file.",
            )
        _log.warning("checkpoint_ignored", error=fault, size=sizes[0])
    return pairs


def _verified(record: CheckpointRecord, signers: TreeSigners) -> PublishedPair:
    origin = record.header.origin
    events = signers.open(record.note, origin)
    note = record.records_note
    records = None if note is None else signers.open(note, records_origin(origin))
    lines = len(signers.events), len(signers.records)
    fully = note is not None and (_ours(record.note, signers.events), _ours(note, signers.records)) == lines
    return PublishedPair(record.header, events, records, fully)


def _ours(note: bytes, signers: Sequence[Signer]) -> int:
    """How many of our keys signed a note that is verified."""
    signed = {(line.key_name, line.key_id) for line in SignedNote.parse(note).signatures}
    return sum((signer.name, signer.verifier.key_id) in signed for signer in signers)


def _base(published: Sequence[PublishedPair], remembered: Sequence[Remembered], log_start: int) -> PublishedPair | None:
    """Where to begin: the largest published pair that nothing remembered is smaller than, if that is near enough."""
    usable = [pair for pair in published if pair.records is not None and pair.header.log_offset >= log_start]
    if not usable:
        return None
    largest = usable[-1]
    for pair in reversed(usable):
        if largest.header.log_offset - pair.header.log_offset > _LOOK_BACK_OFFSETS:
            break
        if not any(_is_below(one.checkpoint, pair) for one in remembered):
            return pair
    return largest


def _is_below(checkpoint: Checkpoint, pair: PublishedPair) -> bool:
    return checkpoint.size < pair.sizes[checkpoint.origin != pair.events.origin]


def _as_remembered(published: Sequence[PublishedPair]) -> list[Remembered]:
    checkpoints = [one for pair in published for one in (pair.events, pair.records) if one is not None]
    return [Remembered(checkpoint, "usage.checkpoints") for checkpoint in checkpoints]


def _not_below(base: PublishedPair | None, remembered: Sequence[Remembered]) -> list[Remembered]:
    """Those that the log can be compared with from the base on."""
    return [one for one in remembered if base is None or not _is_below(one.checkpoint, base)]
