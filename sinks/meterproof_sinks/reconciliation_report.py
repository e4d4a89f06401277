"""What a reconciliation compared, and what differs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from meterproof_sinks.event_time import start_of

_NAMED_MAX: Final = 100
"""Differences of one kind that are named one by one; the others are counted."""

KINDS: Final = (
    "log",
    "audit",
    "rows",
    "rollups",
    "identities",
    "records",
    "checkpoints",
    "quarantine",
    "erasure",
    "corrections",
    "prices",
)
"""What can differ."""
OnProgress = Callable[[str, int], None]
"""Called with a stage and how many more events of it were read."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that must not be."""

    kind: str
    """One of `KINDS`."""
    log: str
    """Origin of the log; empty where several are concerned."""
    hour: str
    """RFC 3339, of event time; empty where no hour is concerned."""
    detail: str


@dataclass(slots=True)
class Reconciliation:
    """What was compared and what differs. Everything in it was found below `up_to`."""

    up_to: dict[str, int] = field(default_factory=dict)
    """By log: the position below which all stages were compared."""
    offsets: dict[str, int] = field(default_factory=dict)
    """By log: offset of the last record that was compared."""
    compared: dict[str, int] = field(default_factory=dict)
    """Events by stage: `log`, `audit`, `rows`, and each roll-up."""
    skipped: list[str] = field(default_factory=list)
    """What was not compared, and why: it was not asked for, was given up, or stands in `not_compared` too."""
    not_compared: list[str] = field(default_factory=list)
    """What was to be compared and could not be."""
    behind: dict[str, int] = field(default_factory=dict)
    """By roll-up: events that are in the rows and not in it yet. No difference: it says itself how far it goes."""
    counts: Counter[str] = field(default_factory=Counter)
    """Differences by kind."""
    differences: list[Difference] = field(default_factory=list)
    """The first of each kind."""
    notes: list[str] = field(default_factory=list)
    retired: dict[str, int] = field(default_factory=dict)
    """By log: events whose months ClickHouse has given up; they are compared by their number only."""

    def differ(self, kind: str, detail: str, *, log: str = "", hour: int | None = None) -> None:
        """Note a difference."""
        self.counts[kind] += 1
        if self.counts[kind] <= _NAMED_MAX:
            at = "" if hour is None else f"{start_of(hour):%Y-%m-%dT%H:00Z}"
            self.differences.append(Difference(kind, log, at, detail))

    def miss(self, text: str) -> None:
        """Note something that was to be compared and could not be, and why."""
        self.skipped.append(text)
        self.not_compared.append(text)

    @property
    def holds(self) -> bool:
        """Whether all that was to be compared was, and nothing differs."""
        return not self.counts and not self.not_compared

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "holds": self.holds,
            "differences": sum(self.counts.values()),
            "by_kind": dict(sorted(self.counts.items())),
            "named": [asdict(difference) for difference in self.differences],
            "up_to": self.up_to,
            "compared": self.compared,
            "behind": self.behind,
            "skipped": self.skipped,
            "not_compared": self.not_compared,
            "notes": self.notes,
        }
