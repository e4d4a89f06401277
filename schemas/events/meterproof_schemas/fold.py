"""`fold(records) → state`: the definition of what a log says.

Workers are checked against it; tests use it as the oracle.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import orjson
from pydantic import ValidationError

from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.accounts import Accounts
from meterproof_schemas.batch import BatchHeader, root_of_entries
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.dedupe_index import DedupeIndex, MemoryIndex
from meterproof_schemas.event import entry_of, identity_of
from meterproof_schemas.log_record import Genesis, LogRecord, RecordHeader, decode_record, frontier_of
from meterproof_schemas.series import SeriesIndex
from meterproof_schemas.source_anchors import SourceAnchors


class LogState(LogChain):
    """All that the accepted prefix of one partition's log says; a pure function of its records.

    Grows by `offer` (a physical record of the topic, accepted or an echo) or by `append` (a record that the caller has
    just made on top of this very state).
    """

    def __init__(self, index: Callable[[int], DedupeIndex] = MemoryIndex, accounts: Accounts | None = None) -> None:
        super().__init__()
        self._new_index = index
        self.frontier = Frontier()
        self.index: DedupeIndex = index(0)
        self.series = SeriesIndex(0)
        self.counts: Counter[str] = Counter()
        """Lines by verdict: `accepted`, `duplicate`, each reason; whole records by reason under `record:<reason>`."""
        self.anchors = SourceAnchors()
        self.accounts = accounts

    def offer(self, offset: int, value: bytes | None) -> LogRecord | None:
        """Take the next physical record, re-deriving what it claims; None when it is an echo.

        Raises:
            StageStopped: `log_diverged` when a record continues the chain and yet contradicts it.
        """
        record = self.follow(offset, value)
        if record is None:
            return None
        entries = [entry_of(line) for line in record.lines]
        frontier = self.frontier.copy()
        frontier.extend(leaf_hashes(entries))
        stated = (record.header.size, record.header.root, record.header.frontier)
        if stated != (frontier.size, frontier.root().hex(), b"".join(frontier.hashes).hex()):
            raise self.diverged(offset, "states a size, root or frontier that does not follow from its accepted lines")
        batch = self._batch_of(offset, record, entries)
        identities = identities_of(record.lines)
        self.index.evict(record.header.clock_ms)
        if len(set(identities)) != len(identities) or any(self.index.get_many(identities)):
            raise self.diverged(offset, "accepts an identity that was accepted before")
        self.append(offset, record.header, record.digest, frontier, identities, entries, batch)
        self.acknowledge(offset)
        if self.accounts is not None:
            self.accounts.add(record)
        return record

    def begin_behind(self, genesis: Genesis, cursor: Cursor, value: bytes | None) -> RecordHeader:
        """Begin behind a record of a log whose beginning was trimmed; `value` is what stands at the cursor now.

        What the record itself says is as after a fold from the genesis: digest, next source offset, ingest clock,
        position, frontier. What only the records before it would say is empty: identities and roots of series, which
        are complete again when the clock has passed the record's by `Limits.identities_kept_ms`; counts of verdicts;
        gaps of series that began before.

        Raises:
            StageStopped: `log_diverged` when that is not the record that the cursor names.
        """
        self.resume(cursor, value)
        header = decode_record(value).header
        self.genesis, self.frontier = genesis, frontier_of(header)
        self.index = self._new_index(genesis.limits.identities_kept_ms)
        self.series = SeriesIndex(genesis.limits.horizon_ms, begun=True)
        return header

    def _batch_of(self, offset: int, record: LogRecord, accepted: Sequence[bytes]) -> BatchHeader | None:
        """The header of the batch that a record carries; its root must follow from accepted and other entries."""
        header = record.header
        judged_by_line = header.kind == "batch" and header.reason is None
        if record.carried is None:
            if judged_by_line:
                raise self.diverged(offset, "judges the lines of a batch that it does not carry")
            return None
        try:
            batch = BatchHeader.model_validate_json(record.carried[0])
        except ValidationError:
            raise self.diverged(offset, "carries something that is not a batch header") from None
        if judged_by_line:
            others = {line: bytes.fromhex(entry) for line, _, entry in header.not_accepted}
            rest = iter(accepted)
            entries = [others.get(line) or next(rest, b"") for line in range(len(accepted) + len(others))]
            if batch.count != len(entries) or root_of_entries(entries).hex() != batch.root:
                raise self.diverged(offset, "states entries that are not those of the batch that it carries")
        return batch

    def append(  # noqa: PLR0917 - what a record is made of, in the order of its making
        self,
        offset: int,
        header: RecordHeader,
        digest: str,
        frontier: Frontier,
        identities: Sequence[bytes],
        entries: Sequence[bytes],
        batch: BatchHeader | None,
    ) -> None:
        """Advance by one record; `batch` is the header of the batch that it carries."""
        self.advance(offset, header, digest)
        if header.genesis is not None:
            limits = header.genesis.limits
            self.index, self.series = self._new_index(limits.identities_kept_ms), SeriesIndex(limits.horizon_ms)
        self.frontier = frontier
        self.index.evict(header.clock_ms)
        self.index.add(identities, entries, header.clock_ms)
        self.series.evict(header.clock_ms)
        if batch is not None and header.reason is None:
            self.series.add(batch, header.clock_ms)
        count_verdicts(self.counts, header)
        self.anchors.add(header)

    def acknowledge(self, offset: int) -> None:
        """The oldest record appended and not acknowledged stands on the log, at this offset, for every reader.

        Says nothing to a state in memory; one that is kept on disk keeps no more than what was acknowledged.
        """

    def close(self) -> None:
        """Give back what is held outside of memory: nothing here. The state is not used afterwards."""


def count_verdicts(counts: Counter[str], header: RecordHeader) -> None:
    """Add a record's verdicts to `LogState.counts`."""
    counts["accepted"] += header.accepted
    for _, verdict, _ in header.not_accepted:
        counts[verdict] += 1
    if header.reason is not None:
        counts[f"record:{header.reason}"] += 1


def identities_of(lines: Iterable[bytes]) -> list[bytes]:
    """The identities of accepted (so: valid) event lines, 16 bytes each."""
    documents = map(orjson.loads, lines)
    return [identity_of(document["source"], document["id"]) for document in documents]


def fold(records: Iterable[tuple[int, bytes | None]], state: LogState | None = None) -> LogState:
    """Fold the physical records (offset, value) of one log partition, oldest first, into a state.

    Raises:
        StageStopped: `log_diverged`, see `LogState.offer`.
    """
    state = LogState() if state is None else state
    for offset, value in records:
        state.offer(offset, value)
    return state
