"""Legal holds: what must be kept, for whom and why, whatever retention or a request to erase says.

`DATA/holds.jsonl` has a line each time that a hold is set or lifted; it is only ever added to. A hold is in force from
its line `set` to the line `lifted` of the same id. It is of one customer, or of everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from meterproof_schemas.instant import format_instant_ms
from meterproof_sinks.disk import Disk
from meterproof_sinks.event_owner import Owner

HOLDS_FILE: Final = "holds.jsonl"
"""In the data folder, beside the audit folder."""


class HoldError(Exception):
    """A hold forbids it, or there is no such hold; the text is for operators."""


class HoldLine(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    version: Literal[1] = 1
    hold: str
    """Random id."""
    state: Literal["set", "lifted"]
    customer: str | None
    """None: everything."""
    at: str
    """RFC 3339."""
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold in force."""

    hold: str
    customer: str | None
    at: str
    by: str
    reason: str

    def __str__(self) -> str:
        """Say whom it is of, who set it, and why."""
        whose = "everything" if self.customer is None else f"customer {self.customer!r}"
        return f"hold {self.hold} of {whose}, set by {self.by} at {self.at}: {self.reason}"

    def as_json(self) -> dict[str, str | None]:
        """For programs."""
        return {"hold": self.hold, "customer": self.customer, "at": self.at, "by": self.by, "reason": self.reason}

    def covers(self, line: bytes) -> bool:
        """Whether an event line (without LF) must be kept."""
        return self.customer is None or Owner("customer", self.customer).owns(line)

    def refusal(self) -> HoldError:
        """What to raise instead of erasing what it covers."""
        return HoldError(f"nothing was erased, {self} forbids it; `meterproof audit hold remove {self.hold}` lifts it")


def refuse_held_line(line: bytes, holds: Sequence[Hold]) -> None:
    """Return if no hold covers an event line.

    Raises:
        HoldError: one does.
    """
    for hold in holds:
        if hold.covers(line):
            raise hold.refusal()


class LegalHolds:
    """The holds of a deployment. Read when it is made; every change is on the device before it returns."""

    def __init__(self, file: Path) -> None:
        """Read the file, which may be missing.

        Raises:
            HoldError: it is faulty.
            OSError: it cannot be read.
        """
        self._file = file
        self._lines: list[HoldLine] = []
        content = file.read_bytes() if file.is_file() else b""
        for number, line in enumerate(content.splitlines(), 1):
            try:
                self._lines.append(HoldLine.model_validate_json(line))
            except ValidationError as error:
                raise HoldError(f"{file}, line {number}: is no hold; nothing is removed until it is mended") from error

    @property
    def in_force(self) -> list[Hold]:
        """The holds that were set and not lifted, oldest first."""
        lifted = {line.hold for line in self._lines if line.state == "lifted"}
        return [
            Hold(line.hold, line.customer, line.at, line.by, line.reason)
            for line in self._lines
            if line.state == "set" and line.hold not in lifted
        ]

    def set(self, hold: str, customer: str | None, *, by: str, reason: str, now_ms: int) -> Hold:
        """Set a hold of a customer, or of everything.

        Raises:
            HoldError: there is one of this id.
            OSError: it cannot be written.
        """
        if any(line.hold == hold for line in self._lines):
            raise HoldError(f"there is a hold {hold} already")
        self._add(
            HoldLine(hold=hold, state="set", customer=customer, at=format_instant_ms(now_ms), by=by, reason=reason)
        )
        return self.in_force[-1]

    def lift(self, hold: str, *, by: str, reason: str, now_ms: int) -> None:
        """Lift a hold.

        Raises:
            HoldError: there is none of this id in force.
            OSError: it cannot be written.
        """
        found = next((one for one in self.in_force if one.hold == hold), None)
        if found is None:
            raise HoldError(f"no hold {hold} is in force; `meterproof audit hold list` names those that are")
        at = format_instant_ms(now_ms)
        self._add(HoldLine(hold=hold, state="lifted", customer=found.customer, at=at, by=by, reason=reason))

    def _add(self, line: HoldLine) -> None:
        lines = [*self._lines, line]
        encoded = (orjson.dumps(one.model_dump(), option=orjson.OPT_APPEND_NEWLINE) for one in lines)
        Disk().replace(self._file, b"".join(encoded))
        self._lines = lines
