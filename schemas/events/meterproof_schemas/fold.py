"""`fold(records) → state`: the definition of what a log says.

Workers are checked against it; tests use it as the oracle.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
from pydantic import ValidationError

from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.accounts import Accounts
from meterproof_schemas.batch import BatchHeader, root_of_entries
from meterproof_schemas.books_in_force import BooksInForce
from meterproof_schemas.chain import Cursor, LogChain
from meterproof_schemas.correction import claim_of, effect_of, is_correction
from meterproof_schemas.dedupe_index import DedupeIndex, MemoryIndex
from meterproof_schemas.effect import Effect
from meterproof_schemas.event import entry_of, identity_of
from meterproof_schemas.log_record import Genesis, LogRecord, RecordHeader, decode_record, frontier_of
from meterproof_schemas.series import SeriesIndex
from meterproof_schemas.source_anchors import SourceAnchors


class LogState(LogChain):
    """All that the accepted prefix of one partition's log says; a pure function of its records.

    Grows by `offer` (a physical record of the topic, accepted or an echo) or by `append` (a record that the caller has
    just made on top of this very state). Lives until whoever folds the log closes it.
    """

    def __init__(self, index: Callable[[int], DedupeIndex] = MemoryIndex, accounts: Accounts | None = None) -> None:
        super().__init__()
        self._new_index = index
        self.frontier = Frontier()
        self.index: DedupeIndex = index(0)
        self.series = SeriesIndex(0)
        self.counts: Counter[str] = Counter()
        """Lines by verdict: `accepted`, `duplicate`, each reason; under `record:<reason>` whole records, under
        `correction:<effect>` accepted corrections."""
        self.anchors = SourceAnchors()
        self.books = BooksInForce(0)
        self.accounts = accounts

    def offer(self, offset: int, value: bytes | None, digest: str | None = None) -> LogRecord | None:
        """Take the next physical record, re-deriving what it claims; None when it is an echo.

        Raises:
            StageStopped: `log_diverged` when a record continues the chain and yet contradicts it.
        """
        record = self.follow(offset, value, digest)
        if record is None:
            return None
        entries = [entry_of(line) for line in record.lines]
        frontier = self.frontier.copy()
        frontier.extend(leaf_hashes(entries))
        stated = (record.header.size, record.header.root, record.header.frontier)
        if stated != (frontier.size, frontier.root().hex(), b"".join(frontier.hashes).hex()):
            raise self.diverged(offset, "states a size, root or frontier that does not follow from its accepted lines")
        batch = self._batch_of(offset, record, entries)
        documents = list(map(orjson.loads, record.lines))
        identities = [identity_of(document["source"], document["id"]) for document in documents]
        claims: dict[bytes, bytes] = {}
        if record.header.corrections is not None or any(is_correction(document) for document in documents):
            claims = self._claims_of(offset, record.header, documents, identities, entries)
        self.index.evict(record.header.clock_ms)
        if len(set(identities)) != len(identities) or any(self.index.get_many(identities)):
            raise self.diverged(offset, "accepts an identity that was accepted before")
        remembered, claimed_by = b"".join([*identities, *claims]), b"".join([*entries, *claims.values()])
        self.append(offset, record.header, record.digest, frontier, remembered, claimed_by, batch)
        self.acknowledge(offset)
        if self.accounts is not None:
            self.accounts.add(record)
        return record

    def _claims_of(
        self,
        offset: int,
        header: RecordHeader,
        documents: Sequence[dict[str, Any]],
        identities: Sequence[bytes],
        entries: Sequence[bytes],
    ) -> dict[bytes, bytes]:
        """What the corrections applied by a record claim, with the correction's entry; each states what it does.

        Asks for what the log held before the record, as whoever made it did: nothing is evicted by its clock yet.

        Raises:
            StageStopped: `log_diverged` when one states another effect than the log before it gives.
        """
        stated, claims, before = header.effects, dict[bytes, bytes](), dict[bytes, bytes]()
        for position, document, identity, entry in zip(
            range(header.first, header.size), documents, identities, entries, strict=True
        ):
            effect = stated.pop(position, None)
            if (effect is not None) != is_correction(document):
                raise self.diverged(offset, f"states the effect {effect} of the event at position {position}")
            if effect is not None:
                source, corrects = document["source"], document["data"]["corrects"]
                target, claim = identity_of(source, corrects["id"]), claim_of(source, corrects["id"])
                held = before.get(target) or self.index.get(target)
                claimed = claim in claims or self.index.get(claim) is not None
                found = effect_of(corrects.get("line", "").encode(), held, corrected_before=claimed)
                # Another price is for the sequencer to tell, which has the price books.
                if effect != found and not (effect is Effect.OTHER_PRICE and found is Effect.APPLIED):
                    raise self.diverged(offset, f"states the effect {effect} of the correction at position {position}")
                if effect is Effect.APPLIED:
                    claims[claim] = entry
            before[identity] = entry
        if stated:
            raise self.diverged(offset, "states the effect of an event that it does not accept")
        return claims

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
        self.books = BooksInForce(genesis.limits.identities_kept_ms)
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
        identities: bytes,
        entries: bytes,
        batch: BatchHeader | None,
    ) -> None:
        """Advance by one record.

        Args:
            offset: where it stands on the log.
            header: the record's.
            digest: of the record's value.
            frontier: of the log after it.
            identities: of the events that it accepts, then what its corrections claim (`claim_of`), joined.
            entries: one for each of the identities, joined.
            batch: header of the batch that it carries.

        """
        self.advance(offset, header, digest)
        if header.genesis is not None:
            limits = header.genesis.limits
            self.index, self.series = self._new_index(limits.identities_kept_ms), SeriesIndex(limits.horizon_ms)
            self.books = BooksInForce(limits.identities_kept_ms)
        self.frontier = frontier
        self.index.evict(header.clock_ms)
        self.index.add(identities, entries, header.clock_ms)
        self.series.evict(header.clock_ms)
        if batch is not None and header.reason is None:
            self.series.add(batch, header.clock_ms)
        count_verdicts(self.counts, header)
        self.anchors.add(header)
        self.books.add(header)

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
    for _, effect in header.corrections or ():
        counts[f"correction:{effect}"] += 1
    if header.reason is not None:
        counts[f"record:{header.reason}"] += 1


def fold(records: Iterable[tuple[int, bytes | None]], state: LogState | None = None) -> LogState:
    """Fold the physical records (offset, value) of one log partition, oldest first, into a state.

    Raises:
        StageStopped: `log_diverged`, see `LogState.offer`.
    """
    state = LogState() if state is None else state
    for offset, value in records:
        state.offer(offset, value)
    return state
