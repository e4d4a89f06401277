"""What a bench found, run by run and as the median of the runs."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tests.bench.rate import Rate


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement."""

    events_per_s: float
    events_per_cpu_s: float
    cpu_share: float
    """Of one core."""
    events: int
    """Between the moments measured."""
    seconds: float
    """Between the moments measured."""
    peak_mib: int
    quarters_mib: tuple[int, ...]
    """Largest resident memory in each quarter of the output."""

    @classmethod
    def of(cls, rate: Rate, peak_mib: int) -> "Run":
        """From a rate and the largest resident memory."""
        quarters_mib = tuple(map(round, rate.quarters_mib))
        return cls(
            rate.events_per_s, rate.events_per_cpu_s, rate.cpu_share, rate.events, rate.seconds, peak_mib, quarters_mib
        )


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: all runs of one bench in one variant."""

    bench: str
    variant: str
    """What varies within the bench, such as `batches of 100`; may be empty."""
    unit: str
    """What is counted: events, rows, lines."""
    batch: int | None
    """Events per batch of the load."""
    runs: list[Run]

    def median(self, field: str) -> float:
        """The median of one figure over the runs."""
        return float(median(getattr(run, field) for run in self.runs))

    @property
    def quarters_mib(self) -> list[int]:
        """Of each quarter, the median of the runs."""
        return [round(median(found)) for found in zip(*(run.quarters_mib for run in self.runs), strict=True)]

    def as_json(self) -> dict[str, Any]:
        """For programs: medians beside the runs themselves."""
        return {
            "bench": self.bench,
            "variant": self.variant,
            "unit": self.unit,
            "batch": self.batch,
            "events_per_s": round(self.median("events_per_s")),
            "events_per_cpu_s": round(self.median("events_per_cpu_s")),
            "cpu_share": round(self.median("cpu_share"), 3),
            "peak_mib": round(self.median("peak_mib")),
            "quarters_mib": self.quarters_mib,
            "runs": [asdict(run) for run in self.runs],
        }
