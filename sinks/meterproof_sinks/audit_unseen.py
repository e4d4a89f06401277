"""What a search of an audit folder could not look at: lines that were given up after their time, or erased."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from meterproof_sinks.audit_events import KeptEvent
from meterproof_sinks.audit_folder import read_log_name
from meterproof_sinks.event_filter import EventFilter
from meterproof_sinks.event_search import logs_of
from meterproof_sinks.given_up import beginning_of
from meterproof_sinks.segment_manifest import read_manifests


@dataclass(slots=True)
class Unseen:
    """Counts of one search. Lives for it, and is complete once all was read."""

    given_up: dict[str, int] = field(default_factory=dict)
    """By log: events whose lines were given up, and that may have been asked for by their time."""
    erased: dict[str, int] = field(default_factory=dict)
    """By log: events read whose lines were erased, and that are, or may have been, asked for."""

    @property
    def as_json(self) -> dict[str, dict[str, int]]:
        """For programs: both counts of each log of which one is not 0."""
        logs = sorted(self.given_up.keys() | self.erased.keys())
        return {log: {"given_up": self.given_up.get(log, 0), "erased": self.erased.get(log, 0)} for log in logs}

    @property
    def as_lines(self) -> list[str]:
        """For people."""
        return [
            f"{log}: may be missing in this: {one['given_up']:,} events given up, {one['erased']:,} erased"
            for log, one in self.as_json.items()
        ]

    @property
    def as_json_line(self) -> str:
        """The last line behind events that are written as JSON, each on a line."""
        return orjson.dumps({"not_there": self.as_json}).decode()

    def looked_through(self, events: Iterable[KeptEvent], wanted: EventFilter) -> Iterator[KeptEvent]:
        """The events that are wanted; erased ones that may have been are counted."""
        for event in events:
            if wanted.misses(event.line):
                self.erased[event.log] = self.erased.get(event.log, 0) + 1
            if wanted.matches(event.line):
                yield event

    def note_given_up(self, folder: Path, wanted: EventFilter) -> None:
        """Count what was given up of the logs of an audit folder, or of one log.

        An event is as old as its arrival at least, but for what the log tolerates of clocks, and at most a horizon
        older: so the manifests that stayed tell which segments can have held what is wanted. Only of a log's first
        segment nobody says when it began.

        Raises:
            DamagedAudit: the folder does not say clearly what was given up.
            OSError: a file cannot be read.
        """
        for log in logs_of(folder):
            if (beginning := beginning_of(log)) is None:
                continue
            limits = beginning.genesis.limits
            before_ms = events = 0
            for manifest in read_manifests(log):
                if manifest.end.size > beginning.end.size:
                    break
                first_ms = before_ms - limits.horizon_ms
                last_ms = manifest.end.clock_ms + limits.future_tolerance_ms
                if wanted.reaches_into(first_ms * 1_000, last_ms * 1_000):
                    events += manifest.end.size - manifest.first
                before_ms = manifest.end.clock_ms
            if events:
                self.given_up[read_log_name(log).origin] = events

    def note_given_up_before(self, log: Path, missing: int) -> None:
        """Count what was given up of so many events before the first that is kept of a log.

        Raises:
            DamagedAudit: the folder does not say clearly what was given up.
            OSError: a file cannot be read.
        """
        beginning = beginning_of(log)
        if beginning is not None and missing > 0:
            self.given_up[read_log_name(log).origin] = min(missing, beginning.end.size)
