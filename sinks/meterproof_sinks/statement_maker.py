"""Make a customer's statement from an audit folder and the price books."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import orjson

from meterproof_schemas.event import entry_of
from meterproof_schemas.fast_event import read_event
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.statement import Period, StatedLog, StatedRecord, Statement
from meterproof_sinks.audit_folder import RECORDS_TLOG_FOLDER, TLOG_FOLDER, read_log_name
from meterproof_sinks.erased import erased_entry
from meterproof_sinks.event_search import decoded, logs_of, records_of
from meterproof_sinks.given_up import beginning_of
from meterproof_sinks.proving import CannotProve, PublishedTree

_CLOCKS_MS: Final = 86_400_000
"""More than any log tolerates of an event's time after its arrival."""


def make_statement(
    folder: Path,
    customer: str,
    period: Period,
    books: Mapping[int, bytes],
    on_erased: Callable[[int], None] = lambda _: None,
) -> Statement:
    """The statement of a customer over all logs of an audit folder; reads all of it, holds the customer's events.

    Args:
        folder: audit folder, or one log's folder.
        customer: whose.
        period: by event time.
        books: price book files by version, at least those in force for the customer's events.
        on_erased: told how many events of each log were erased that came in late enough to be of the period; whose
            they were, nobody can tell, so some of the customer's may be missing.

    Raises:
        CannotProve: no checkpoint covers one of the events yet, the published files do not hold, or lines that may be
            of the period were given up.
        DamagedAudit: the folder does not hold.
        StatementNotTrue: a price book is missing.
    """
    logs = [_stated(log, customer, period, on_erased) for log in logs_of(folder)]
    return Statement.of(customer, period, books, sorted(logs, key=lambda log: log.origin))


def _stated(log: Path, customer: str, period: Period, on_erased: Callable[[int], None]) -> StatedLog:
    origin = read_log_name(log).origin
    _refuse_given_up(log, period)
    # The checkpoints first: what they cover is on disk by now.
    first, second = PublishedTree(log, TLOG_FOLDER), PublishedTree(log, RECORDS_TLOG_FOLDER)
    spelled = orjson.dumps(customer)
    events: dict[int, bytes] = {}
    records: list[StatedRecord] = []
    erased = 0
    for number, stored in records_of(log):
        if stored.erased:
            record = decoded(stored)
            if period.from_us <= (record.header.append_ms + _CLOCKS_MS) * 1000:
                erased += sum(erased_entry(line) is not None for line in record.lines)
        # An escape can spell the name in another way; such lines are rare, and are parsed.
        if not stored.events or (spelled not in stored.value and b"\\" not in stored.value):
            continue
        record = decoded(stored)
        before = len(events)
        for index, line in enumerate(record.lines):
            if spelled in line or b"\\" in line:
                event = read_event(line)
                if event.data.customer == customer and period.from_us <= event.time_us < period.until_us:
                    events[record.header.first + index] = line
        if len(events) > before and record.carried is not None:
            records.append(StatedRecord(number, record.header_line, record.carried))
    on_erased(erased)
    return StatedLog(
        origin,
        tuple(events.items()),
        tuple(records),
        first.multi_proof({position: entry_of(line) for position, line in events.items()}),
        second.multi_proof({record.number: record.entry for record in records}),
        first.note,
        second.note,
    )


def _refuse_given_up(log: Path, period: Period) -> None:
    """Return if no event of the period can be among the lines that were given up."""
    beginning = beginning_of(log)
    if beginning is None:
        return
    # An event is never later than its arrival by more than the log tolerates.
    last_ms = beginning.end.clock_ms + beginning.genesis.limits.future_tolerance_ms
    if period.from_us <= last_ms * 1000:
        raise CannotProve(
            f"{log}: the lines of positions below {beginning.end.size}, up to {format_instant_ms(last_ms)}, were given "
            f"up, and events of {period.text} may have been among them. Bring them back from a copy "
            "(`meterproof audit fetch`)"
        )
