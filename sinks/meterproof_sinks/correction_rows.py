"""Corrections as ClickHouse takes them in: what leaves an event out of every total."""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import orjson

from meterproof_schemas.fast_event import read_event
from meterproof_schemas.log_record import LogRecord
from meterproof_sinks.erased import erased_entry


class CorrectionRow(NamedTuple):
    """What a row of `usage_corrections` says of an accepted correction, beside its place."""

    kind: str
    effect: str
    event_us: int
    """Time of the event that it corrects, and its own."""
    target: str
    """Entry of that event, in hexadecimal."""


def corrections_of(record: LogRecord) -> dict[int, CorrectionRow]:
    """What the accepted corrections of a record are, by position.

    An erased one is nothing: what it corrects was erased with it.
    """
    found = {}
    for position, effect in record.header.corrections or ():
        line = record.lines[position - record.header.first]
        if erased_entry(line) is not None:
            continue
        event = read_event(line)
        corrects = event.data.corrects
        if corrects is not None and corrects.line is not None:
            target = sha256(corrects.line.encode()).hexdigest()
            found[position] = CorrectionRow(corrects.kind, effect.value, event.time_us, target)
    return found


def correction_rows(origin: str, records: Sequence[LogRecord]) -> list[bytes]:
    """The accepted corrections of these records as JSONEachRow rows of `usage_corrections`."""
    return [
        orjson.dumps({"log": origin, "position": position, **row._asdict()})
        for record in records
        for position, row in corrections_of(record).items()
    ]
