"""Which price books a log has counted by: what an event of a given age can have cost."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from meterproof_schemas.log_record import RecordHeader


class BookRun(NamedTuple):
    """One price book, from the first record that counted by it."""

    clock_ms: int
    """That record's ingest clock."""
    version: int
    """0 is none."""


class BooksInForce:
    """The price books of a log's records that accepted events, each from when on.

    A pure function of the log's records; lives as long as the state that it belongs to.
    """

    def __init__(self, keep_ms: int, runs: Iterable[tuple[int, int]] = ()) -> None:
        """Begin with these runs, oldest first; one that ended `keep_ms` of the ingest clock ago is forgotten."""
        self._keep_ms = keep_ms
        self._runs = [BookRun(*run) for run in runs]
        self._version = self._runs[-1].version if self._runs else -1

    def add(self, header: RecordHeader) -> None:
        """Note by which book an accepted record counts."""
        if header.price_book != self._version and header.size > header.first:
            self.begin(BookRun(header.clock_ms, header.price_book))

    def begin(self, run: BookRun) -> None:
        """Note a run, which is over when another one begins."""
        if run.version != self._version:
            self._version = run.version
            self._runs.append(run)
            while len(self._runs) > 1 and self._runs[1].clock_ms + self._keep_ms < run.clock_ms:
                del self._runs[0]

    def since(self, clock_ms: int) -> set[int]:
        """The versions by which records with this ingest clock or a higher one count."""
        versions = set()
        for run in reversed(self._runs):
            versions.add(run.version)
            if run.clock_ms < clock_ms:
                break
        return versions

    def __iter__(self) -> Iterator[BookRun]:
        """Oldest first."""
        return iter(self._runs)
