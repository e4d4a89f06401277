"""Derive again what corrections do, and compare it with what the log's records state.

An accepted correction carries the line that it corrects, so what it does follows from little: whether the log holds
that line's entry before it, whether an earlier correction of the event was applied, and the price books in force since
the event. A correction is `too_late` like an event of its time, so all of that lies within the time for which a log
remembers identities. Entries outlive erasure, so what was erased is corrected as before.

Kept is what the corrections within that time claim, and the price books within it; the entries are looked up once in
the end, from where the oldest of them can stand, in the published bundles, which were compared before, and behind these
in the lines. Logs without corrections pay a look for their name.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from meterproof_proofs.bundle import decode_bundle
from meterproof_proofs.errors import MalformedBundle
from meterproof_proofs.tiles import TILE_WIDTH, Bundle
from meterproof_schemas.books_in_force import BookRun, BooksInForce
from meterproof_schemas.correction import accepted_since_ms, same_price
from meterproof_schemas.effect import Effect
from meterproof_schemas.log_record import Genesis, Limits
from meterproof_schemas.price_book import PriceBook
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import TLOG_FOLDER, segments_of
from meterproof_sinks.erased import entry_of_kept
from meterproof_sinks.seen_corrections import Corrected, Seen, SeenCorrection
from meterproof_sinks.segment_manifest import read_manifests
from meterproof_sinks.segment_reader import open_files
from meterproof_sinks.verification_memory import VerifiedEffects
from meterproof_sinks.verification_report import LogReport

_HELD: Final = frozenset({Effect.APPLIED, Effect.ALREADY_CORRECTED, Effect.OTHER_PRICE})
"""Effects of corrections whose event is in the log."""
_LINES: Final = 4_096


class _Due(NamedTuple):
    """What the entries must show of one correction."""

    seen: SeenCorrection
    entry: bytes
    is_held: bool
    """Whether the entry must stand before the correction, or must not."""
    since_ms: int
    """Lowest ingest clock with which it can have been accepted."""
    is_checked: bool
    """Whether all else was; if not, it is counted as unchecked already."""


class EffectVerification:
    """What the corrections of one log do, derived again in the order of the log; lives for one pass over it.

    Promises: once `finish` has found nothing, every correction of which the pass told does what its record states, but
    for those that the report counts as unchecked. `unknown_target` and `other_content` are not told apart: neither
    does anything.
    """

    def __init__(self, books: Mapping[int, PriceBook], report: LogReport) -> None:
        """Begin before the log's first record.

        Args:
            books: the price books that were published, as far as they are here.
            report: of the log; counts what is verified.

        """
        self._prices = books
        self._report = report
        self._limits: Limits | None = None
        self._known = VerifiedEffects()
        self._books = BooksInForce(0)
        self._claims: dict[bytes, int] = {}
        """What applied corrections claim, with the ingest clock of each, oldest first."""
        self._due: list[_Due] = []

    def begin(self, genesis: Genesis, known: VerifiedEffects | None = None) -> None:
        """Take what the log's first record fixes, and what is known of the records before where the pass begins."""
        self._limits = genesis.limits
        if known is not None:
            self._known = known
        self._books = BooksInForce(self._limits.identities_kept_ms, self._known.books)
        self._claims = {bytes.fromhex(claim): clock_ms for claim, clock_ms in self._known.claims.items()}

    @property
    def state(self) -> VerifiedEffects:
        """What a later pass needs to go on from here."""
        return VerifiedEffects(
            claims={claim.hex(): clock_ms for claim, clock_ms in self._claims.items()},
            books=tuple((run.clock_ms, run.version) for run in self._books),
            claims_since_ms=self._known.claims_since_ms,
            books_since_ms=self._known.books_since_ms,
        )

    def absorb(self, seen: Sequence[Seen]) -> bool:
        """Take what somebody else saw in a segment; False, and nothing is taken, if something of it does not hold."""
        known, books, claims, due = self._known, list(self._books), dict(self._claims), len(self._due)
        counts = self._report.corrections, self._report.corrections_unchecked
        try:
            for one in seen:
                self.take(one)
        except DamagedAudit:
            self._known, self._claims = known, claims
            self._books = BooksInForce(0 if self._limits is None else self._limits.identities_kept_ms, books)
            del self._due[due:]
            self._report.corrections, self._report.corrections_unchecked = counts
            return False
        return True

    def take(self, seen: Seen) -> None:
        """Take what the pass saw next.

        Raises:
            DamagedAudit: a correction cannot do what its record states.
        """
        if isinstance(seen, BookRun):
            self._books.begin(seen)
            return
        self._report.corrections += 1
        if self._limits is None:
            return
        if seen.corrected is None:
            self._report.corrections_unchecked += 1
            if seen.effect is Effect.APPLIED:
                self._known = self._known.model_copy(update={"claims_since_ms": seen.clock_ms + 1})
            return
        kept_since_ms = max(0, seen.before_ms - self._limits.identities_kept_ms)
        self._forget(kept_since_ms)
        is_held = seen.effect in _HELD
        checks = (self._is_claim_checked, self._is_price_checked) if is_held else ()
        outcomes = [check(seen, seen.corrected, kept_since_ms) for check in checks]  # each of them may find a fault
        is_checked = all(outcomes)
        self._report.corrections_unchecked += not is_checked
        if seen.effect is Effect.APPLIED:
            self._claims.pop(seen.corrected.claim, None)
            self._claims[seen.corrected.claim] = seen.clock_ms
        since_ms = accepted_since_ms(seen.corrected.event, self._limits)
        self._due.append(_Due(seen, seen.corrected.entry, is_held, since_ms, is_checked))

    def _forget(self, since_ms: int) -> None:
        while self._claims and next(iter(self._claims.values())) < since_ms:
            del self._claims[next(iter(self._claims))]

    def _is_claim_checked(self, seen: SeenCorrection, corrected: Corrected, kept_since_ms: int) -> bool:
        """Whether it is known if an earlier correction of the event was applied; then the effect must fit."""
        is_claimed = corrected.claim in self._claims
        if not is_claimed and self._known.claims_since_ms > kept_since_ms:
            return False
        if is_claimed and seen.effect is not Effect.ALREADY_CORRECTED:
            raise _wrong(seen, "an earlier correction of that event was applied")
        if not is_claimed and seen.effect is Effect.ALREADY_CORRECTED:
            raise _wrong(seen, "no earlier correction of that event was applied")
        return True

    def _is_price_checked(self, seen: SeenCorrection, corrected: Corrected, kept_since_ms: int) -> bool:
        """Whether the price books are here that the effect depends on; then it must fit."""
        if seen.effect is Effect.ALREADY_CORRECTED:
            return True
        if self._limits is None or self._known.books_since_ms > kept_since_ms:
            return False
        versions = self._books.since(accepted_since_ms(corrected.event, self._limits)) | {seen.price_book}
        if not versions <= self._prices.keys() | {0}:
            return len(versions) == 1 and seen.effect is Effect.APPLIED
        if same_price(corrected.event, map(self._prices.get, versions)) != (seen.effect is Effect.APPLIED):
            raise _wrong(seen, f"the price books {sorted(versions)}, by which the log counted since, say otherwise")
        return True

    # --- the entries ---

    def finish(self, folder: Path, published: int) -> None:
        """Look up what the entries must show, each once.

        Args:
            folder: the log's.
            published: events whose published bundles were found to hold.

        Raises:
            DamagedAudit: a correction's event is in the log, or is not, and its effect is stated to be another.
            OSError: a file cannot be read.

        """
        if not self._due:
            return
        begin = _position_before(folder, min(due.since_ms for due in self._due))
        wanted = {due.entry for due in self._due}
        last = max(due.seen.position for due in self._due)
        first_at: dict[bytes, int] = {}
        at, missing = begin, False
        for position, entries in _entries(folder, begin, published):
            missing |= position > at  # lines were given up, and nothing is published of them
            at = position + len(entries)
            if not wanted.isdisjoint(entries):
                for number, entry in enumerate(entries, position):
                    if entry in wanted:
                        first_at.setdefault(entry, number)
            if at > last:
                break
        for due in self._due:
            is_held = first_at.get(due.entry, due.seen.position) < due.seen.position
            if is_held != due.is_held:
                if is_held or not missing:
                    what = "the event is in the log before it" if is_held else "no such event is in the log before it"
                    raise _wrong(due.seen, what)
                self._report.corrections_unchecked += due.is_checked


def _wrong(seen: SeenCorrection, why: str) -> DamagedAudit:
    fault = f"states the effect {seen.effect} of the correction at position {seen.position}, but {why}"
    return DamagedAudit(seen.file, seen.line, seen.position, fault)


def _position_before(folder: Path, clock_ms: int) -> int:
    """A position below which no event was accepted with this ingest clock or a higher one."""
    ends = [manifest.end for manifest in read_manifests(folder)]
    return max((end.size for end in ends if end.clock_ms < clock_ms), default=0)


def _entries(folder: Path, begin: int, published: int) -> Iterator[tuple[int, list[bytes]]]:
    """A log's entries from about a position on, each piece with the position of its first.

    From the published bundles, as far as they are full; from the lines behind them.
    """
    index = begin // TILE_WIDTH
    while (index + 1) * TILE_WIDTH <= published:
        bundle = Bundle(index, TILE_WIDTH)
        try:
            yield index * TILE_WIDTH, decode_bundle((folder / TLOG_FOLDER / bundle.path).read_bytes(), TILE_WIDTH)
        except (FileNotFoundError, MalformedBundle):
            break
        index += 1
    due = max(begin, index * TILE_WIDTH)
    yield from _entries_of_lines(folder, due)


def _entries_of_lines(folder: Path, begin: int) -> Iterator[tuple[int, list[bytes]]]:
    segments = segments_of(folder)
    for segment, behind in zip(segments, [*segments[1:], None], strict=True):
        if behind is not None and behind.first <= begin:
            continue
        events, records = open_files(segment)
        records.close()
        with events:
            position = segment.first
            while lines := list(islice(events, _LINES)):
                yield position, [entry_of_kept(line[:-1]) for line in lines if line[-1:] == b"\n"]
                position += len(lines)
