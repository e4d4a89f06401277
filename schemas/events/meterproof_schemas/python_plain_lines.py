"""What `plain_lines` offers, in Python, and its definition: what rules ask of event lines that need no special look."""

from array import array
from itertools import accumulate
from typing import NamedTuple

from meterproof_schemas.event import identities_of_events
from meterproof_schemas.fast_event import read_plain_events


class PlainLines(NamedTuple):
    """Lines that are all spelled the common way, column by column; none of them is a correction."""

    ends: bytes
    """Where each line ends in its text, behind its LF: 8 bytes each, as `array("q")` has them."""
    speakers: list[str]
    """`speaker_of` each line."""
    identities: bytes
    """`identity_of` each line, one behind the other."""
    earliest_us: int
    """The first of their event times."""
    latest_us: int
    """The last of them."""
    meters: set[str]
    """All names in `data.usage` of all lines."""


def speaker_of(source: str, agent: str, customer: str) -> str:
    """Source, agent and customer as one text: a NUL stands between two, which no name can contain."""
    return f"{source}\0{agent}\0{customer}"


def read_plain_lines(text: bytes, start: int, /) -> PlainLines | None:
    """The columns of the lines from `start` to the end of a text, each ended by LF; None says nothing about any line.

    `parse_event` accepts all of them.
    """
    *lines, rest = text[start:].split(b"\n")
    plain = None if rest else read_plain_events(lines)
    if plain is None:
        return None
    events = plain.events
    ends = array("q", accumulate((len(line) + 1 for line in lines), initial=start))[1:]
    speakers = [speaker_of(event.source, event.subject, event.data.customer) for event in events]
    identities = b"".join(identities_of_events(events))
    return PlainLines(ends.tobytes(), speakers, identities, min(plain.times_us), max(plain.times_us), plain.meters)
