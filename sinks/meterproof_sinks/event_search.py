"""Find an event, or what became of it, in an audit folder: by its id, or by the digest of its line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.event import entry_of
from meterproof_schemas.fast_event import read_event
from meterproof_schemas.log_record import LogRecord, decode_record
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import is_log_folder, log_folders, logs_held_twice, read_log_name, read_records
from meterproof_sinks.audit_segment import StoredRecord, TornAudit
from meterproof_sinks.given_up import beginning_of


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An accepted event in an audit folder, or a verdict that something was not accepted."""

    folder: Path
    """The log's."""
    origin: str
    record_number: int
    """Entry of the log's second tree: 0 is the genesis."""
    record: LogRecord
    verdict: str
    """`accepted`, `duplicate`, or the reason of the refusal."""
    line: bytes | None
    """The event's line, if it was accepted."""
    position: int | None
    """Its position, if it was accepted."""
    source: str | None
    batch_line: int | None
    """Line in the batch, from 0; None when the source record was refused as a whole."""


def events_with_id(folder: Path, event_id: str) -> Iterator[FoundEvent]:
    """The accepted events with this id, in all logs of an audit folder; reads all of it.

    Raises:
        DamagedAudit: the folder does not hold.
    """
    spelled = orjson.dumps(event_id)
    for log, origin, number, stored in _stored(folder):
        # An escape can spell the id in another way; such lines are rare, and are parsed.
        if spelled not in stored.value and b"\\" not in stored.value:
            continue
        record = decoded(stored)
        for index, line in enumerate(record.lines):
            if spelled in line or b"\\" in line:
                event = read_event(line)
                if event.id == event_id:
                    yield _accepted((log, origin), number, record, index, event.source)


def verdicts_on(folder: Path, digest: bytes) -> Iterator[FoundEvent]:
    """What became of the line, or of the source record, with this digest: every time that it came.

    Raises:
        DamagedAudit: the folder does not hold.
    """
    spelled = digest.hex()
    for log, origin, number, stored in _stored(folder):
        record = decoded(stored)
        header = record.header
        for index, line in enumerate(record.lines):
            if entry_of(line) == digest:
                yield _accepted((log, origin), number, record, index, read_event(line).source)
        if header.reason is not None and header.source is not None and header.source.digest == spelled:
            yield FoundEvent(log, origin, number, record, str(header.reason), None, None, None, None)
        for line_number, verdict, entry in header.not_accepted:
            if entry == spelled:
                yield FoundEvent(log, origin, number, record, verdict, None, None, None, line_number)


def logs_of(folder: Path) -> list[Path]:
    """The folders of the logs in an audit folder, or the one that is given.

    Raises:
        DamagedAudit: there is none, or one is there twice.
    """
    logs = [folder] if is_log_folder(folder) else log_folders(folder)
    if not logs:
        raise DamagedAudit(folder, None, None, "holds no log")
    for fault in logs_held_twice(logs):
        raise fault
    return logs


def records_of(log: Path) -> Iterator[tuple[int, StoredRecord]]:
    """All whole records that are kept of a log with their numbers; an unfinished last one is left out.

    Raises:
        DamagedAudit: the folder does not hold.
    """
    try:
        beginning = beginning_of(log)
        yield from enumerate(read_records(log), 0 if beginning is None else beginning.end.records)
    except TornAudit as torn:
        if not torn.incomplete:
            raise


def decoded(stored: StoredRecord) -> LogRecord:
    """The record.

    Raises:
        DamagedAudit: it is none.
    """
    try:
        return decode_record(stored.value)
    except InvalidRecord as error:
        place = stored.segment.records_file, stored.records_line + 1, stored.position
        raise DamagedAudit(*place, str(error)) from error


def accepted_line_numbers(record: LogRecord) -> list[int]:
    """Line in its batch of each accepted event of a record, in order."""
    refused = {number for number, _, _ in record.header.not_accepted}
    whole = len(record.lines) + len(refused)
    return [number for number in range(whole) if number not in refused]


def _stored(folder: Path) -> Iterator[tuple[Path, str, int, StoredRecord]]:
    """All whole records of all logs: folder, origin, number in the log, and the record."""
    for log in logs_of(folder):
        origin = read_log_name(log).origin
        for number, stored in records_of(log):
            yield log, origin, number, stored


def _accepted(log: tuple[Path, str], number: int, record: LogRecord, index: int, source: str) -> FoundEvent:
    return FoundEvent(
        *log,
        number,
        record,
        "accepted",
        record.lines[index],
        record.header.first + index,
        source,
        accepted_line_numbers(record)[index],
    )
