"""Genuine logs for tests: signed batches, judged and chained by the sequencer's own code, without a broker."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from meterproof_proofs.checkpoint import Checkpoint, sign_checkpoint
from meterproof_proofs.frontier import Frontier
from meterproof_proofs.note import Signer
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.checkpoint_record import CheckpointHeader, CheckpointRecord, RecordsCheckpoint
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import Genesis, LogRecord, decode_record
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.records_tree import head_entry, head_of, records_origin
from meterproof_sinks.audit_tree import Signed, SignedPair
from meterproof_stream.judge import Judgement, judge, judge_hole
from meterproof_stream.record_builder import InForce, append_record
from tests.builders import (
    NOW_MS,
    SigningPair,
    agent_in,
    make_batch,
    make_event,
    make_genesis_record,
    make_key,
    make_registry,
)

_WRITER = "ab" * 16


@dataclass
class LogBuilder:
    """A log that grows by one record per call; `records` is what a reader of `usage.log` is handed.

    Everything follows from the arguments. Lives as long as its test.
    """

    partition: int = 0
    partitions: int = 1
    epoch: str = "0f" * 16
    key: SigningPair = field(default_factory=make_key)
    genesis_value: bytes | None = None
    """The log's first record, where a broker already has one; `deployment` must be the tests' own."""
    log_offset: int = 0
    """Where the genesis stands; raise it between calls to leave room for echoes."""
    records: list[tuple[int, LogRecord]] = field(default_factory=list)
    batches: list[bytes] = field(default_factory=list)
    """The source records, by offset, without those of holes."""
    price_book: int = 0
    """Version of the price book in force, one of `books`; 0 is none."""
    books: ClassVar[Mapping[int, PriceBook]] = {}
    meters: ClassVar[frozenset[str]] = frozenset({"requests"})

    def __post_init__(self) -> None:
        self.state = LogState()
        self.registry = make_registry(self.key)
        self.signer = Signer("meter.example.com/test", b"\x07" * 32)
        self.clock_ms = NOW_MS
        self.agent = agent_in(self.partition, self.partitions)
        self._sequence = 0
        self._events = 0
        made = make_genesis_record(partition=self.partition, partitions=self.partitions, epoch=self.epoch)
        record = self.state.offer(self.log_offset, self.genesis_value or made)
        assert record is not None
        self.records.append((self.log_offset, record))
        self.log_offset += 1

    @classmethod
    def resumed(cls, records: list[tuple[int, LogRecord]]) -> "LogBuilder":
        """A builder that goes on behind records of before, which may be of an older version of the code."""
        log = cls(genesis_value=records[0][1].value, log_offset=records[0][0])
        for offset, record in records[1:]:
            taken = log.state.offer(offset, record.value)
            assert taken is not None
            log.records.append((offset, taken))
            log.log_offset = offset + 1
            log.clock_ms = max(log.clock_ms, taken.header.clock_ms)
            log._events += len(taken.lines)
            log._sequence += taken.carried is not None
        return log

    @property
    def genesis(self) -> Genesis:
        """What the log's first record fixes."""
        assert self.state.genesis is not None
        return self.state.genesis

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.genesis.origin

    def events(self, count: int, padding: int = 0) -> list[bytes]:
        """New event lines that the log accepts."""
        first, self._events = self._events, self._events + count
        return [
            make_event(
                f"e{number}",
                subject=self.agent,
                time_ms=self.clock_ms,
                data={"operation": "x" * padding} if padding else None,
            )
            for number in range(first, first + count)
        ]

    def batch(self, lines: list[bytes] | int, *, after_ms: int = 1_000) -> LogRecord:
        """A record for one batch of these lines, or of so many new ones."""
        self.clock_ms += after_ms
        lines = self.events(lines) if isinstance(lines, int) else lines
        topic = self.genesis.source_topic
        value = make_batch(lines, self.key, partition=self.partition, sequence=self._sequence, topic=topic)
        self._sequence += 1
        return self.source(value)

    def tick(self, after_ms: int) -> LogRecord:
        """A record that accepts nothing, by which the log's clock is so much later."""
        return self.batch([b'{"no":"event"}'], after_ms=after_ms)

    def source(self, value: bytes) -> LogRecord:
        """A record for any source record, refused ones included."""
        self.batches.append(value)
        return self._append(
            judge(
                value,
                partition=self.partition,
                offset=self.state.next_source_offset,
                append_ms=self.clock_ms,
                state=self.state,
                registry=self.registry,
                meters=self.meters,
                books={version: book for version, book in self.books.items() if version == self.price_book},
            )
        )

    def hole(self) -> LogRecord:
        """A record for a source offset that holds nothing."""
        return self._append(judge_hole(self.state))

    def checkpoint(self, signer: Signer | None = None) -> bytes:
        """A signed checkpoint of the log as it is now."""
        at = Checkpoint(self.origin, self.state.position, self.state.frontier.root())
        return sign_checkpoint(at, [signer or self.signer])

    def _append(self, judgement: Judgement) -> LogRecord:
        built = append_record(
            self.state,
            judgement,
            log_offset=self.log_offset,
            source_offset=self.state.next_source_offset,
            in_force=InForce(self.registry.digest, self.price_book, _WRITER, 1),
        )
        record = decode_record(built.value)
        self.records.append((self.log_offset, record))
        self.log_offset += 1
        return record


def signed_pair(log: LogBuilder, number: int = -1, *signers: Signer, seed: bytes | None = None) -> SignedPair:
    """The checkpoints of both trees at the end of a log's record.

    Signed by the log's own signer; or by those given; or by the key of this seed, under the trees' names.
    """
    end = number % len(log.records) + 1
    header = log.records[end - 1][1].header
    events = Checkpoint(log.origin, header.size, bytes.fromhex(header.root))
    heads = Frontier()
    heads.extend(leaf_hashes([head_entry(head_of(record)) for _, record in log.records[:end]]))
    records = Checkpoint(records_origin(log.origin), heads.size, heads.root())

    def signed(checkpoint: Checkpoint) -> Signed:
        keys = signers or (log.signer if seed is None else Signer(checkpoint.origin, seed),)
        return Signed(checkpoint, sign_checkpoint(checkpoint, keys))

    return SignedPair(signed(events), signed(records))


def checkpoint_record(log: LogBuilder, number: int = -1, root: bytes | None = None) -> CheckpointRecord:
    """What `usage.checkpoints` says after a log's record; with another root than the log's, if one is given."""
    pair, (log_offset, record) = signed_pair(log, number), log.records[number]
    assert pair.records is not None
    note = pair.events.note
    if root is not None:
        note = sign_checkpoint(replace(pair.events.checkpoint, root=root), [log.signer])
    heads = pair.records.checkpoint
    header = CheckpointHeader(
        v=1,
        origin=log.origin,
        size=record.header.size,
        log_offset=log_offset,
        digest=record.digest,
        clock_ms=record.header.clock_ms,
        records=RecordsCheckpoint(size=heads.size, frontier=heads.root.hex(), note=pair.records.note.decode()),
    )
    return CheckpointRecord(header, note)


def make_log(*, partition: int = 0, partitions: int = 1, epoch: str = "0f" * 16) -> LogBuilder:
    """A small log with each shape of record: accepted, partly or wholly duplicate, partly or wholly refused, a hole."""
    log = LogBuilder(partition=partition, partitions=partitions, epoch=epoch)
    first = log.events(3)
    log.batch(first)
    log.batch([*first[:1], *log.events(2)])
    log.batch(first)
    log.log_offset += 2
    log.source(b"not a batch\n")
    log.hole()
    log.batch([b'{"not":"an event"}', *log.events(4), make_event("late", subject=log.agent, time_ms=0)])
    log.batch(1)
    return log
