"""Which events somebody asks for: by the values of their fields, by their time, by the digest of their line."""

import json
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from meterproof_schemas.instant import parse_instant_us
from meterproof_sinks.erased import entry_of_kept, erased_entry

_MISSING: Final = object()


class BadFilter(ValueError):
    """A filter that says nothing that can be looked for; the text says what to write instead."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field and the text that its value must have: a string's own, a number's as it is spelled, `true`, `null`."""

    path: tuple[str, ...]
    text: str

    @classmethod
    def parse(cls, asked: str) -> "Field":
        """Read `data.model=gpt-4o`; a name with a dot in it is asked for as `/data/tags/a.b=x` (RFC 6901).

        Raises:
            BadFilter: it is not spelled so.
        """
        name, equals, text = asked.partition("=")
        if not name or not equals:
            raise BadFilter(f"{asked!r} is not FIELD=VALUE, like data.model=gpt-4o or /data/tags/cost.centre=42")
        if name.startswith("/"):
            return cls(tuple(part.replace("~1", "/").replace("~0", "~") for part in name[1:].split("/")), text)
        return cls(tuple(name.split(".")), text)

    def holds(self, event: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
        """Whether the event has this field with this value."""
        value = event
        for name in self.path:
            value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
        if isinstance(value, bool) or value is None:
            return self.text == json.dumps(value)
        # Every number was read as the text that it is spelled with.
        return isinstance(value, str) and value == self.text


@dataclass(frozen=True, slots=True)
class EventFilter:
    """All of what it asks must hold. An erased line has nothing left but its digest, so no other question finds it."""

    fields: tuple[Field, ...] = ()
    from_us: int | None = None
    """First event time, microseconds since 1970."""
    until_us: int | None = None
    """First event time that is too late."""
    digest: bytes | None = None
    """SHA-256 of the line: what the log holds for it, erased or not."""
    erased: bool = False
    """Erased lines alone."""

    def matches(self, line: bytes) -> bool:
        """Whether a line as it is kept (without LF) is asked for."""
        if self.digest is not None and entry_of_kept(line) != self.digest:
            return False
        if erased_entry(line) is not None:
            return not self.fields and self.from_us is None and self.until_us is None
        if self.erased:
            return False
        # An escape can spell a value in another way; such lines are rare, and are parsed.
        if b"\\" not in line and not all(field.text.encode() in line for field in self.fields):
            return False
        if not self.fields and self.from_us is None and self.until_us is None:
            return True
        event = json.loads(line, parse_float=str, parse_int=str)
        return all(field.holds(event) for field in self.fields) and self._in_time(event["time"])

    def misses(self, line: bytes) -> bool:
        """Whether a line as it is kept was erased and is asked for, or may have been, not for having been erased."""
        return erased_entry(line) is not None and not self.erased and self.digest is None

    def reaches_into(self, first_us: int, last_us: int) -> bool:
        """Whether events of these times, the last one included, can be asked for."""
        return (self.from_us is None or self.from_us <= last_us) and (self.until_us is None or self.until_us > first_us)

    def _in_time(self, time: str) -> bool:
        if self.from_us is None and self.until_us is None:
            return True
        time_us = parse_instant_us(time)
        return (self.from_us is None or time_us >= self.from_us) and (self.until_us is None or time_us < self.until_us)


def instant_us(text: str) -> int:
    """A moment in UTC as people write it: a day, a minute, a second or finer; microseconds since 1970.

    Raises:
        BadFilter: it is none of them.
    """
    try:
        if len(text) == len("2026-01-31"):
            return parse_instant_us(f"{date.fromisoformat(text).isoformat()}T00:00:00.000Z")
        bare = text.removesuffix("Z")
        if len(bare) == len("2026-01-31T23:59"):
            bare += ":00"
        if "." not in bare:
            bare += ".000"
        return parse_instant_us(f"{bare}Z")
    except ValueError as error:
        raise BadFilter(
            f"{text!r} is no moment in UTC like 2026-01-31, 2026-01-31T23:59 or 2026-01-31T23:59:59.000Z"
        ) from error
