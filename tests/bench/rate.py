"""From what a process put out and what it used of the processor to events per second. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
class CpuSample:
    """What a process had used of the processor at a moment."""

    at_ms: float
    used_s: float


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

    @property
    def events_per_cpu_s(self) -> float:
        """What the rate would be if the process had a core to itself."""
        return self.events_per_s / self.cpu_share

    def scaled(self, factor: float) -> "Rate":
        """The same rate where each event that was put out stands for `factor` events that came in."""
        return replace(self, events_per_s=self.events_per_s * factor, events=round(self.events * factor))


class TooShort(Exception):
    """The output came in too few steps to say anything about its speed."""


def rate_of(output: Iterable[tuple[float, int]], cpu: Sequence[CpuSample], *, short: bool = False) -> Rate:
    """The rate between 20 % and 97 % of the output.

    Args:
        output: (moment in milliseconds since 1970, events put out at that moment), in any order.
        cpu: samples of the process that put them out, oldest first, from before 20 % until after 97 %.
        short: take what is shorter than the clocks can tell for as long as they can tell, instead of raising.

    Raises:
        TooShort: fewer than two moments lie between the shares, or the processor was not used between them.
    """
    steps = sorted(output)
    total = sum(events for _, events in steps)
    done = 0
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None
    for at_ms, events in steps:
        done += events
        if first is None and done >= FIRST_SHARE * total:
            first = (at_ms, done)
        if done >= LAST_SHARE * total:
            last = (at_ms, done)
            break
    if first is None or last is None:
        raise TooShort("nothing was put out")
    seconds = (last[0] - first[0]) / 1000
    used_s = _used_s(cpu, last[0]) - _used_s(cpu, first[0])
    events = last[1] - first[1]
    if short:
        seconds, used_s, events = max(seconds, _CLOCK_S), max(used_s, _CPU_CLOCK_S), events or total
    if seconds < _CLOCK_S or used_s <= 0:
        raise TooShort(f"{total} events took {seconds} s: too short to measure; take more events")
    return Rate(events / seconds, used_s / seconds, events, seconds)


def _used_s(samples: Sequence[CpuSample], at_ms: float) -> float:
    """Use of the processor up to a moment, interpolated between the samples around it."""
    if not samples:
        raise TooShort("the process ended before its use of the processor was seen; take more events")
    after = bisect_right(samples, at_ms, key=lambda sample: sample.at_ms)
    if after == 0:
        return samples[0].used_s
    if after == len(samples):
        return samples[-1].used_s
    left, right = samples[after - 1], samples[after]
    return left.used_s + (right.used_s - left.used_s) * (at_ms - left.at_ms) / (right.at_ms - left.at_ms)
