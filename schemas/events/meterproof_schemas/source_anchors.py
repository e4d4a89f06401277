"""Source records that a log remembers, far apart: they tell whether a source is still the one that it was made from."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from meterproof_schemas.log_record import RecordHeader


class SourceAnchor(NamedTuple):
    """One source record as the log answered for it."""

    offset: int
    """On the source topic."""
    digest: str
    """SHA-256 of its value in hexadecimal."""
    append_ms: int
    """The broker's append time, which a topic that was filled again cannot have."""


class SourceAnchors:
    """The newest anchor of each power of two that divides an offset, so their ages double from one to the next.

    At most 64, however long the log, from a moment ago to half of the log and its first record; a pure function of the
    log's records. Lives as long as the state that it belongs to.
    """

    def __init__(self, anchors: Iterable[SourceAnchor] = ()) -> None:
        self._by_power: dict[int, SourceAnchor] = {}
        for anchor in sorted(anchors):
            self._by_power[anchor.offset & -anchor.offset] = anchor

    def add(self, header: RecordHeader) -> None:
        """Remember what an accepted record answers for, if that was a record with a value."""
        source = header.source
        if source is not None and source.digest is not None:
            offset = source.offset
            self._by_power[offset & -offset] = SourceAnchor(offset, source.digest, header.append_ms)

    def __iter__(self) -> Iterator[SourceAnchor]:
        """Oldest first."""
        return iter(sorted(self._by_power.values()))

    def spread(self, start: int, count: int) -> list[SourceAnchor]:
        """At most `count` of those from offset `start` on: the oldest, the newest, and others evenly between."""
        held = [anchor for anchor in self if anchor.offset >= start]
        if len(held) <= count:
            return held
        return [held[place * (len(held) - 1) // (count - 1)] for place in range(count)]
