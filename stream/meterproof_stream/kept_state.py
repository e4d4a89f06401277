"""A `LogState` that survives the process: kept beside the dedupe index, brought back at a record of the log."""

from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from meterproof_proofs.frontier import Frontier
from meterproof_schemas.batch import BatchHeader
from meterproof_schemas.books_in_force import BookRun, BooksInForce
from meterproof_schemas.chain import Cursor
from meterproof_schemas.errors import ContractError
from meterproof_schemas.fold import LogState, count_verdicts
from meterproof_schemas.log_record import Genesis, LogRecord, RecordHeader, frontier_of
from meterproof_schemas.series import SeriesIndex, SeriesRow
from meterproof_schemas.source_anchors import SourceAnchor, SourceAnchors
from meterproof_stream.errors import IndexDamaged
from meterproof_stream.rocksdb_index import RocksdbIndex


@dataclass(frozen=True, slots=True)
class _Appended:
    """What will be kept of a record, once it is acknowledged."""

    header: RecordHeader
    digest: str
    rows: tuple[bytes, ...]


class KeptState(LogState):
    """The fold of one partition's log, of which the acknowledged part is also kept in a folder.

    The folder is a cache of the log. Beside the index stand, in the same write batch, a cursor (epoch, log offset and
    digest of the last record, counts of verdicts, source records far apart, price books in force) and what the record's
    batch changed in its producer's series. The cursor is good for the log that holds this very record there; the record
    itself says the rest: next source offset, ingest clock, position, frontier.

    Promises what `LogState` promises; and a state that `resume_at` brings back equals the fold of the same records.
    Lives as long as its partition is held; `close` gives the folder back.
    """

    def __init__(self, folder: Path) -> None:
        """Begin before the genesis. What the folder holds is thrown away when the genesis comes."""
        super().__init__()
        self._folder = folder
        self._kept: RocksdbIndex | None = None
        self._kept_genesis: dict[str, Any] = {}
        self._kept_counts: Counter[str] = Counter()
        self._kept_anchors = SourceAnchors()
        self._kept_books = BooksInForce(0)
        self._appended: deque[_Appended] = deque()
        self._new_index = self._create

    def _create(self, keep_ms: int) -> RocksdbIndex:
        self._kept = RocksdbIndex.create(self._folder, keep_ms)
        self._kept_books = BooksInForce(keep_ms)
        return self._kept

    @classmethod
    def resume_at(cls, folder: Path, index: RocksdbIndex, record: LogRecord) -> Self:
        """The state behind `record`, which the log holds where the cursor of `index` says.

        Raises:
            IndexDamaged: the cursor names another record, or something kept does not fit.
        """
        state = cls(folder)
        try:
            kept = index.cursor
            state.genesis = genesis = Genesis.model_validate(kept["genesis"])
            state.resume(Cursor(genesis.epoch, kept["log_offset"], kept["digest"], record.header.size), record.value)
            state.frontier = frontier_of(record.header)
            state.foreign = kept["foreign"]
            state.counts.update(kept["counts"])
            anchors = [SourceAnchor(*anchor) for anchor in kept["anchors"]]
            state.anchors, state._kept_anchors = SourceAnchors(anchors), SourceAnchors(anchors)
            keep_ms = genesis.limits.identities_kept_ms
            runs = [BookRun(*run) for run in kept["books"]]
            state.books, state._kept_books = BooksInForce(keep_ms, runs), BooksInForce(keep_ms, runs)
            state.series = SeriesIndex(genesis.limits.horizon_ms)
            for row in index.rows():
                state.series.restore(_decode_row(row))
            state.series.evict(state.clock_ms)
        except (ContractError, KeyError, TypeError, ValueError) as error:
            raise IndexDamaged(folder, str(error)) from error
        state._kept_counts.update(state.counts)
        state.index = state._kept = index
        return state

    def append(  # noqa: PLR0917 - as in the class above
        self,
        offset: int,
        header: RecordHeader,
        digest: str,
        frontier: Frontier,
        identities: bytes,
        entries: bytes,
        batch: BatchHeader | None,
    ) -> None:
        """See `LogState.append`."""
        before = self.series.added
        super().append(offset, header, digest, frontier, identities, entries, batch)
        rows: tuple[bytes, ...] = ()
        if batch is not None and self.series.added > before:
            rows = (encode_row(self.series.row(batch, header.clock_ms)),)
        self._appended.append(_Appended(header, digest, rows))

    def acknowledge(self, offset: int) -> None:
        """See `LogState.acknowledge`.

        Raises:
            IndexDamaged: the folder cannot be written.
        """
        appended = self._appended.popleft()
        count_verdicts(self._kept_counts, appended.header)
        self._kept_anchors.add(appended.header)
        self._kept_books.add(appended.header)
        if self._kept is None or self.genesis is None:
            message = "a record before the genesis was acknowledged"
            raise ValueError(message)
        if not self._kept_genesis:
            self._kept_genesis = self.genesis.model_dump()
        self._kept.acknowledge(
            appended.rows,
            {
                "genesis": self._kept_genesis,
                "log_offset": offset,
                "digest": appended.digest,
                "foreign": self.foreign,
                "counts": dict(self._kept_counts),
                "anchors": list(map(tuple, self._kept_anchors)),
                "books": list(map(tuple, self._kept_books)),
            },
        )

    def close(self) -> None:
        """See `LogState.close`.

        Raises:
            IndexDamaged: the folder cannot be written.
        """
        if self._kept is not None:
            self._kept.close()


def encode_row(row: SeriesRow) -> bytes:
    """What is kept of a batch."""
    return orjson.dumps((row.clock_ms, row.producer, row.instance, row.sequence, row.root.hex(), row.next, row.missing))


def _decode_row(row: bytes) -> SeriesRow:
    clock_ms, producer, instance, sequence, root, following, missing = orjson.loads(row)
    return SeriesRow(clock_ms, producer, instance, sequence, bytes.fromhex(root), following, missing)
