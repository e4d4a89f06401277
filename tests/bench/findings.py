"""All that one run of the bench found."""

from dataclasses import dataclass, field
from typing import Any

from tests.bench.figure import Figure
from tests.bench.growth import Growth
from tests.bench.latency import Latency
from tests.bench.result import Result
from tests.bench.steps import StepTable


@dataclass(slots=True)
class Findings:
    """What the run has found so far."""

    results: list[Result] = field(default_factory=list)
    """One per line of the table, in its order; without runs where nothing was measured."""
    steps: StepTable | None = None
    latencies: list[Latency] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    not_here: dict[str, str] = field(default_factory=dict)
    """Benches that this machine lacks something for, and what."""

    @property
    def measured(self) -> list[Result]:
        """The results that have at least one run."""
        return [result for result in self.results if result.runs]

    def add_latency(self, found: Latency) -> None:
        """Put what one run saw of a way to what others saw of it."""
        for known in self.latencies:
            if known.name == found.name:
                known.values_ms.extend(found.values_ms)
                return
        self.latencies.append(found)

    def add_figure(self, found: Figure) -> None:
        """Put what one run found to what others found."""
        for known in self.figures:
            if (known.bench, known.name) == (found.bench, found.name):
                known.found.extend(found.found)
                return
        self.figures.append(found)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "results": [result.as_json() for result in self.measured],
            "steps": None if self.steps is None else self.steps.as_json(),
            "latencies": [latency.as_json() for latency in self.latencies],
            "growth": [one.as_json() for one in self.growth],
            "figures": [figure.as_json() for figure in self.figures],
            "not_measured": self.not_here,
        }
