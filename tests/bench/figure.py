"""A single figure that is no rate between two moments: a time, a size."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

_HOLDS: Final = {"≤": lambda value, target: value <= target, "≥": lambda value, target: value >= target}


@dataclass(frozen=True, slots=True)
class Figure:
    """One finding; its value is the median of what the runs found."""

    bench: str
    name: str
    unit: str
    target: tuple[Literal["≤", "≥"], float] | None = None
    found: list[float] = field(default_factory=list)
    """In each run."""

    @property
    def value(self) -> float:
        """The median of the runs."""
        return float(median(self.found))

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None without one."""
        return None if self.target is None else _HOLDS[self.target[0]](self.value, self.target[1])

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "bench": self.bench,
            "name": self.name,
            "unit": self.unit,
            "value": self.value,
            "target": None if self.target is None else " ".join(map(str, self.target)),
            "reached": self.reached,
        }
