"""What a stage holds of a log, hour by hour, so that stages can be compared: computed from lines, or by ClickHouse."""

from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from meterproof_schemas.fast_event import read_event
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.quantity import EXACT, decimal_of
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.correction_rows import CorrectionRow, corrections_of
from meterproof_sinks.erased import entry_of_kept, erased_entry

_HOUR_US: Final = 3_600_000_000
_WORD: Final = 1 << 64


@dataclass(slots=True)
class Totals:
    """Of the events of one log in one hour of event time."""

    events: int = 0
    fingerprint: int = 0
    """Sum of the first 8 bytes of each entry, little-endian, modulo 2^64: the same for the same set of lines."""
    usage: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """Quantity by meter; meters that add up to zero mean nothing."""

    def used(self) -> dict[str, Decimal]:
        """Quantity by meter without zeros."""
        return {meter: quantity for meter, quantity in sorted(self.usage.items()) if quantity}


@dataclass(slots=True)
class Tally:
    """What one stage holds of one log, up to a position."""

    position: int = 0
    """Entries that it covers."""
    hours: defaultdict[int, Totals] = field(default_factory=lambda: defaultdict(Totals))
    """By hours since 1970 UTC."""
    erased: dict[int, bytes] = field(default_factory=dict)
    """Entries that were erased, by position."""
    corrections: defaultdict[int, set[CorrectionRow]] = field(default_factory=lambda: defaultdict(set))
    """What is said of accepted corrections, by position; one thing of each, where all is well."""

    @property
    def events(self) -> int:
        """In all hours."""
        return sum(totals.events for totals in self.hours.values())

    def add(self, record: LogRecord, skip: AbstractSet[int] = frozenset()) -> None:
        """Add an accepted record's events, but for those at the positions of `skip`."""
        for position, line in enumerate(record.lines, record.header.first):
            entry = entry_of_kept(line)
            if erased_entry(line) is not None:
                self.erased[position] = entry
            elif position not in skip:
                event = read_event(line)
                totals = self.hours[event.time_us // _HOUR_US]
                totals.events += 1
                totals.fingerprint = (totals.fingerprint + int.from_bytes(entry[:8], "little")) % _WORD
                for meter, quantity in event.data.usage.items():
                    totals.usage[meter] = EXACT.add(totals.usage[meter], decimal_of(quantity))
        for position, row in corrections_of(record).items():
            if position not in skip:
                self.corrections[position].add(row)
        self.position = record.header.size


def tally_clickhouse(clickhouse: ClickHouse, bounds: Mapping[str, int]) -> dict[str, Tally]:
    """What the rows of a ClickHouse say, by log, of the events below each log's bound.

    Raises:
        ClickHouseError: it cannot be asked.
    """
    tallies = {log: Tally(position=bound) for log, bound in bounds.items()}
    for log, hour, events, fingerprint, usage in clickhouse.rows(_HOURS, _of(bounds)):
        tallies[log].hours[hour] = Totals(events, fingerprint, defaultdict(Decimal, usage))
    for log, position, entry in clickhouse.rows(_ERASED, _of(bounds)):
        tallies[log].erased[position] = bytes.fromhex(entry)
    for log, position, *row in clickhouse.rows(_CORRECTIONS, _of(bounds)):
        tallies[log].corrections[position].add(CorrectionRow(*row))
    return tallies


def _of(bounds: Mapping[str, int]) -> dict[str, Any]:
    return {"logs": list(bounds), "bounds": list(bounds.values())}


_BELOW: Final = "position < mapFromArrays({logs:Array(String)}, {bounds:Array(UInt64)})[log]"
_HOURS: Final = f"""
SELECT log, toUInt32(intDiv(toUnixTimestamp64Micro(event_time), 3600000000)) AS hour, count(),
       sum(reinterpretAsUInt64(substring(entry, 1, 8))), sumMap(usage)
FROM usage_final WHERE {_BELOW} GROUP BY log, hour
"""  # noqa: S608 - nothing of it comes from outside
_ERASED: Final = f"SELECT log, position, entry FROM usage_erased FINAL WHERE {_BELOW}"  # noqa: S608 - as above
_CORRECTIONS: Final = (
    f"SELECT DISTINCT log, position, kind, effect, event_us, target FROM usage_corrections WHERE {_BELOW}"  # noqa: S608 - as above
)
