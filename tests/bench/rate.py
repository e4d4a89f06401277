"""From what a process put out and what it used of the machine to events per second. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

FIRST_SHARE: Final = 0.20
"""What was put out before this share is start-up."""
LAST_SHARE: Final = 0.97
"""What came after this share is the end, when not every partition has work any more."""
_CLOCK_S: Final = 0.001
"""Resolution of append times."""
_CPU_CLOCK_S: Final = 0.01
"""Resolution of a process's processor time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process had used at a moment."""

    at_ms: float
    used_s: float
    """Of the processor."""
    resident_mib: float = 0
    """Of memory."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a process worked between the two shares of its output."""

    events_per_s: float
    cpu_share: float
    """Of one core: processor time used, divided by the time that passed."""
    events: int
    """Measured: those between the two moments."""
    seconds: float
    """Measured: the time between the two moments."""
    quarters_mib: tuple[float, ...]
    """Largest resident memory while each quarter of the output was put out: four equal figures are flat memory."""

    @property
    def events_per_cpu_s(self) -> float:
        """What the rate would be if the process had a core to itself."""
        return self.events_per_s / self.cpu_share

    def scaled(self, factor: float) -> "Rate":
        """The same rate where each event that was put out stands for `factor` events that came in."""
        return replace(self, events_per_s=self.events_per_s * factor, events=round(self.events * factor))


class TooShort(Exception):
    """The output came in too few steps to say anything about its speed."""


def rate_of(output: Iterable[tuple[float, int]], samples: Sequence[Sample], *, short: bool = False) -> Rate:
    """The rate between 20 % and 97 % of the output.

    Args:
        output: (moment in milliseconds since 1970, events put out at that moment), in any order.
        samples: of the process that put them out, oldest first, from before 20 % until after 97 %.
        short: take what is shorter than the clocks can tell for as long as they can tell, instead of raising.

    Raises:
        TooShort: fewer than two moments lie between the shares, or the processor was not used between them.
    """
    steps = sorted(output)
    total = sum(events for _, events in steps)
    done = 0
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None
    quarters_ms: list[float] = []
    for at_ms, events in steps:
        done += events
        while done * 4 > total * len(quarters_ms):
            quarters_ms.append(at_ms)
        if first is None and done >= FIRST_SHARE * total:
            first = (at_ms, done)
        if done >= LAST_SHARE * total:
            last = (at_ms, done)
            break
    if first is None or last is None:
        raise TooShort("nothing was put out")
    seconds = (last[0] - first[0]) / 1000
    before, after = _at(samples, first[0]), _at(samples, last[0])
    used_s = after.used_s - before.used_s
    events = last[1] - first[1]
    if short:
        seconds, used_s, events = max(seconds, _CLOCK_S), max(used_s, _CPU_CLOCK_S), events or total
    if seconds < _CLOCK_S or used_s <= 0:
        raise TooShort(f"{total} events took {seconds} s: too short to measure; take more events")
    return Rate(events / seconds, used_s / seconds, events, seconds, _quarters_mib(samples, [*quarters_ms, last[0]]))


def _quarters_mib(samples: Sequence[Sample], moments_ms: Sequence[float]) -> tuple[float, ...]:
    """The largest resident memory between each moment and the next."""
    return tuple(
        max(
            _at(samples, begin_ms).resident_mib,
            *(sample.resident_mib for sample in samples if begin_ms <= sample.at_ms <= end_ms),
            _at(samples, end_ms).resident_mib,
        )
        for begin_ms, end_ms in pairwise(moments_ms)
    )


def both(samples: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    """What two processes had used together, at the moments of the first one's samples."""
    added = []
    for one in samples:
        other = _at(others, one.at_ms)
        added.append(Sample(one.at_ms, one.used_s + other.used_s, one.resident_mib + other.resident_mib))
    return added


def _at(samples: Sequence[Sample], at_ms: float) -> Sample:
    """What had been used up to a moment, interpolated between the samples around it."""
    if not samples:
        raise TooShort("the process ended before its use of the processor was seen; take more events")
    after = bisect_right(samples, at_ms, key=lambda sample: sample.at_ms)
    if after == 0:
        return samples[0]
    if after == len(samples):
        return samples[-1]
    left, right = samples[after - 1], samples[after]
    share = (at_ms - left.at_ms) / (right.at_ms - left.at_ms)
    return Sample(
        at_ms,
        left.used_s + (right.used_s - left.used_s) * share,
        left.resident_mib + (right.resident_mib - left.resident_mib) * share,
    )
