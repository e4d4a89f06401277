"""What a pass over a log's records notes of corrections, so that their effects can be derived again."""

from dataclasses import dataclass
from pathlib import Path

import orjson

from meterproof_schemas.books_in_force import BookRun
from meterproof_schemas.correction import check_correction, claim_of, is_correction
from meterproof_schemas.effect import Effect
from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import UsageEvent, entry_of, parse_event
from meterproof_schemas.log_record import Genesis, LogRecord, RecordHeader
from meterproof_sinks.audit_segment import StoredRecord
from meterproof_sinks.erased import ERASED_BEGIN, erased_entry
from meterproof_sinks.fault_location import fault_in_header


@dataclass(frozen=True, slots=True)
class Corrected:
    """The event that a correction carries."""

    entry: bytes
    """Of its line."""
    claim: bytes
    """`claim_of` it."""
    event: UsageEvent


@dataclass(frozen=True, slots=True)
class SeenCorrection:
    """An accepted correction, and what its record states of it."""

    file: Path
    line: int
    """Of the record's header, which states the effect."""
    position: int
    effect: Effect
    before_ms: int
    """Ingest clock before its record."""
    clock_ms: int
    """With its record."""
    price_book: int
    """In force."""
    corrected: Corrected | None
    """None if the correction's line was erased."""


Seen = SeenCorrection | BookRun
"""A price book stands behind the corrections of the first record that counts by it."""


class CorrectionsSeen:
    """What of a log's records tells of corrections, record by record; lives for one pass over them, or over a segment.

    Looks at a line only where it may be a correction: where its record states an effect for it, or where its bytes hold
    the name `corrects`, or an escape, by which that could be spelled.
    """

    def __init__(self, genesis: Genesis | None) -> None:
        """Begin; `genesis` is what the log's first record fixes, None if that record is yet to come."""
        self._genesis = genesis
        self._price_book = -1

    def of(self, stored: StoredRecord, record: LogRecord, before_ms: int) -> list[Seen]:
        """What the next record tells; `before_ms` is the ingest clock before it.

        Raises:
            DamagedAudit: it states the effect of something that is no correction, or states none of a correction; or it
                accepts a correction that may not stand in the log.
        """
        header = record.header
        self._genesis = header.genesis or self._genesis
        seen: list[Seen] = []
        if header.corrections is not None or _may_correct(stored.value):
            seen += self._corrections(stored, record, before_ms)
        if header.price_book != self._price_book and header.size > header.first:
            self._price_book = header.price_book
            seen.append(BookRun(header.clock_ms, header.price_book))
        return seen

    def _corrections(self, stored: StoredRecord, record: LogRecord, before_ms: int) -> list[SeenCorrection]:
        header = record.header
        stated = header.effects
        if list(stated) != sorted(stated) or len(stated) != len(header.corrections or ()):
            raise fault_in_header(stored, "its corrections are not in order, each once")
        seen = []
        for position, line in enumerate(record.lines, header.first):
            effect, found = stated.pop(position, None), None
            if line.startswith(ERASED_BEGIN) and erased_entry(line) is not None:
                if effect is None:
                    continue
            else:
                correction = _correction(line)
                if (correction is None) != (effect is None):
                    fault = f"states the effect {effect} of the event at position {position}"
                    raise fault_in_header(
                        stored, fault + (", which is none" if correction is None else ", a correction")
                    )
                if correction is None:
                    continue
                found = self._corrected(stored, position, correction, line)
            if effect is not None:
                seen.append(_seen(stored, header, position, effect, before_ms, found))
        if stated:
            raise fault_in_header(stored, "states the effect of an event that it does not accept")
        return seen

    def _corrected(self, stored: StoredRecord, position: int, correction: UsageEvent, line: bytes) -> Corrected:
        try:
            if self._genesis is not None and not self._genesis.limits.corrections:
                fault = (
                    f"accepts a correction at position {position}, and the log's first record says that it takes none"
                )
                raise fault_in_header(stored, fault)
            event = check_correction(correction, line)
        except InvalidEvent as error:
            fault = f"accepts a correction at position {position} that no log may accept: {error.detail}"
            raise fault_in_header(stored, fault) from error
        carried = correction.data.corrects
        content = b"" if carried is None or carried.line is None else carried.line.encode()
        return Corrected(entry_of(content), claim_of(event.source, event.id), event)


def _may_correct(value: bytes) -> bool:
    return b"corrects" in value or (b"\\" in value and b"\\u" in value)


def _correction(line: bytes) -> UsageEvent | None:
    """The correction that a line is; None if it is none, or nothing that any reader takes for an event."""
    if not _may_correct(line):
        return None
    try:
        document = orjson.loads(line)
        return parse_event(line) if is_correction(document) else None
    except (InvalidEvent, orjson.JSONDecodeError, TypeError, AttributeError, KeyError):
        return None


def _seen(  # noqa: PLR0917 - what a correction is seen as
    stored: StoredRecord,
    header: RecordHeader,
    position: int,
    effect: Effect,
    before_ms: int,
    corrected: Corrected | None,
) -> SeenCorrection:
    return SeenCorrection(
        stored.segment.records_file,
        stored.records_line + 1,
        position,
        effect,
        before_ms,
        header.clock_ms,
        header.price_book,
        corrected,
    )
