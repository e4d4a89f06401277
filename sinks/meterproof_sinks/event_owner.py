"""Whose an event is, read from its line as it is kept."""

from dataclasses import dataclass
from typing import Literal

import orjson

from meterproof_schemas.fast_event import read_event
from meterproof_sinks.erased import erased_entry

OwnerKind = Literal["agent", "customer"]


@dataclass(frozen=True, slots=True)
class Owner:
    """An agent or a customer."""

    kind: OwnerKind
    name: str

    def owns(self, line: bytes) -> bool:
        """Whether an event line (without LF) is of this one. An erased line is of nobody."""
        return belongs_to(line, self.kind, self.name)


def belongs_to(line: bytes, kind: OwnerKind, name: str) -> bool:
    """Whether an event line (without LF) is of this agent or customer. An erased line is of nobody."""
    # An escape can spell the name in another way; such lines are rare, and are parsed.
    if (orjson.dumps(name) not in line and b"\\" not in line) or erased_entry(line) is not None:
        return False
    event = read_event(line)
    return name == (event.subject if kind == "agent" else event.data.customer)
