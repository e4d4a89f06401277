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
        # An escape can spell the name in another way; such lines are rare, and are parsed.
        if (orjson.dumps(self.name) not in line and b"\\" not in line) or erased_entry(line) is not None:
            return False
        event = read_event(line)
        return self.name == (event.subject if self.kind == "agent" else event.data.customer)
