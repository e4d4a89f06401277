"""Which faults, in which order, with which luck: a pure function of a seed."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_PAUSE_MAX_S = 0.8
_WAIT_PERCENT = 50


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a run."""

    number: int
    """From 1."""
    fault: str
    """Its name."""
    seed: int
    """Of all that the fault draws itself: its victim, its moments, its bytes."""
    pause_s: float
    """From the end of the fault before, or its recovery, to the beginning of this one."""
    wait: bool
    """Whether the next fault waits until the pipeline has recovered from this one; else it strikes meanwhile."""


def schedule(seed: int, times: Mapping[str, int]) -> Iterator[Planned]:
    """Faults without end: round after round, each fault as often as `times` says, in an order drawn anew."""
    draw = random.Random(f"meterproof/{seed}")
    number = 0
    while True:
        deck = [name for name, count in sorted(times.items()) for _ in range(count)]
        draw.shuffle(deck)
        for name in deck:
            number += 1
            yield Planned(
                number,
                name,
                draw.getrandbits(32),
                round(draw.uniform(0, _PAUSE_MAX_S), 3),
                draw.randrange(100) < _WAIT_PERCENT,
            )
