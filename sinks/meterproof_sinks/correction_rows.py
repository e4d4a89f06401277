"""Corrections as ClickHouse takes them in: what leaves an event out of every total."""

from collections.abc import Sequence
from hashlib import sha256

import orjson

from meterproof_schemas.fast_event import read_event
from meterproof_schemas.log_record import LogRecord
from meterproof_sinks.erased import erased_entry


def correction_rows(origin: str, records: Sequence[LogRecord]) -> list[bytes]:
    """The accepted corrections of these records as JSONEachRow rows of `usage_corrections`.

    An erased one has no row: what it corrects was erased with it.
    """
    rows = []
    for record in records:
        for position, effect in record.header.corrections or ():
            line = record.lines[position - record.header.first]
            if erased_entry(line) is not None:
                continue
            event = read_event(line)
            corrects = event.data.corrects
            if corrects is not None and corrects.line is not None:
                row = {
                    "log": origin,
                    "position": position,
                    "kind": corrects.kind,
                    "effect": effect,
                    "event_us": event.time_us,
                    "target": sha256(corrects.line.encode()).hexdigest(),
                }
                rows.append(orjson.dumps(row))
    return rows
