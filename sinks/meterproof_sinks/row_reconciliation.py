"""Which columns of which rows differ: looked for once fingerprints have told that some of a stretch do."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import plain_scaled
from meterproof_sinks.audit_folder import records
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.erased import erased_entry
from meterproof_sinks.row_texts import EVENT_COLUMNS, RECORD_COLUMNS, SEPARATOR, event_texts, record_text, text_sql
from meterproof_sinks.tally import STRETCH

_NAMED_MAX: Final = 3
"""Rows of a stretch that are named; the others are counted."""
_TOLD_CHARACTERS_MAX: Final = 80
_AMOUNTS: Final = frozenset({"cost", "stated_cost", "tokens", "units"})


def differing_events(  # noqa: PLR0917 - what was compared
    clickhouse: ClickHouse,
    folder: Path,
    log: str,
    stretches: Iterable[int],
    books: Mapping[int, PriceBook],
    unknown_books: AbstractSet[int],
) -> dict[int, str]:
    """By stretch of positions: which rows differ from the lines in an audit folder, and in what.

    Raises:
        AuditError: the folder is damaged.
        ClickHouseError: it cannot be asked.
    """
    wanted = frozenset(stretches)
    due: defaultdict[int, dict[int, str]] = defaultdict(dict)
    for _, record in records(folder):
        header = record.header
        if header.accepted and not wanted.isdisjoint(range(header.first // STRETCH, (header.size - 1) // STRETCH + 1)):
            kept = [
                (position, line)
                for position, line in enumerate(record.lines, header.first)
                if position // STRETCH in wanted and erased_entry(line) is None
            ]
            for (position, _), event in zip(kept, event_texts(record, kept, books), strict=True):
                due[position // STRETCH][position] = event.text
    return {
        stretch: _told("position", EVENT_COLUMNS, due[stretch], _held(clickhouse, _EVENTS, log, stretch, unknown_books))
        for stretch in sorted(wanted)
    }


def differing_records(clickhouse: ClickHouse, folder: Path, log: str, stretches: Iterable[int]) -> dict[int, str]:
    """By stretch of log offsets: which rows of records differ from the records in an audit folder, and in what.

    Raises:
        AuditError: the folder is damaged.
        ClickHouseError: it cannot be asked.
    """
    wanted = frozenset(stretches)
    due: defaultdict[int, dict[int, str]] = defaultdict(dict)
    for log_offset, record in records(folder):
        if log_offset // STRETCH in wanted:
            due[log_offset // STRETCH][log_offset] = record_text(log_offset, record)
    return {
        stretch: _told("log offset", RECORD_COLUMNS, due[stretch], _held(clickhouse, _RECORDS, log, stretch))
        for stretch in sorted(wanted)
    }


def _held(
    clickhouse: ClickHouse, sql: str, log: str, stretch: int, unknown_books: AbstractSet[int] = frozenset()
) -> dict[int, str]:
    """The texts of a stretch in ClickHouse."""
    return dict(
        clickhouse.rows(
            sql,
            {
                "log": log,
                "first": stretch * STRETCH,
                "after": (stretch + 1) * STRETCH,
                "unknown": sorted(unknown_books),
            },
        )
    )


def _told(what: str, columns: Mapping[str, str], due: Mapping[int, str], held: Mapping[int, str]) -> str:
    """The first differences in words. What stands in one of both alone is told elsewhere."""
    differing = [number for number in sorted(due.keys() & held.keys()) if due[number] != held[number]]
    told = [
        f"{what} {number}: "
        + ", ".join(
            f"{name} should be {_spelled(name, expected)} and is {_spelled(name, got)}"
            for name, expected, got in zip(
                columns, due[number].split(SEPARATOR), held[number].split(SEPARATOR), strict=False
            )
            if expected != got
        )
        for number in differing[:_NAMED_MAX]
    ]
    more = len(differing) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _spelled(column: str, text: str) -> str:
    if column in _AMOUNTS and text:
        return plain_scaled(int(text))
    return repr(text if len(text) <= _TOLD_CHARACTERS_MAX else f"{text[:_TOLD_CHARACTERS_MAX]}…")


_EVENTS: Final = (
    f"SELECT position, {text_sql(EVENT_COLUMNS)} FROM usage_final "  # noqa: S608 - nothing of it comes from outside
    "WHERE log = {log:String} AND position >= {first:UInt64} AND position < {after:UInt64}"
)
_RECORDS: Final = (
    f"SELECT log_offset, {text_sql(RECORD_COLUMNS)} FROM records_final "  # noqa: S608 - as above
    "WHERE log = {log:String} AND log_offset >= {first:UInt64} AND log_offset < {after:UInt64}"
)
