"""`read_event`: `parse_event` for the hot path. It accepts the common spelling at once and leaves all else to the rule.

The fast path only ever accepts, and only lines of which it can prove that `parse_event` accepts them with the same
values; whatever it does not accept goes to `parse_event`, which alone refuses. Its steps and what each one proves:

1. At most `LINE_BYTES_MAX` bytes, ASCII alone, no backslash, no 0x7f. With JSON's own ban on raw control characters
   inside strings, every string is then spelled by its own characters, and none of them is a control character; so
   lengths in characters are lengths in bytes.
2. `msgspec` decodes it into structs that state the same types and bounds as the models of `event.py`. It takes no
   float, boolean or null for an integer or a string.
3. No name occurs twice, no raw tab or CR stands between tokens. Proof by length: the decoded structs are written again,
   compactly. Every string and every integer that was kept needs as many bytes as it had in the line (one more byte was
   there for `-0`), and everything that was *not* kept (the first of two equal names, white space, a null, an unknown
   field) needed at least one byte. So equal lengths mean that nothing was dropped. Where the lengths differ because of
   unknown fields or nulls, the line must equal its own re-serialisation by `orjson`, as in `parse_object`, which emits
   no name twice and no white space; and its depth is looked at.
4. What `msgspec` cannot say, or says slowly: the instant, the spelling of meter names, hexadecimal digits.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
import orjson
from msgspec import Meta, Struct, field
from msgspec.structs import force_setattr

from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import METERS_MAX, TAGS_MAX, Event, Status, Surface, parse_event
from meterproof_schemas.instant import parse_instants_us
from meterproof_schemas.limits import DEPTH_MAX, LINE_BYTES_MAX, NAME_BYTES_MAX
from meterproof_schemas.quantity import DECIMAL_PATTERN, INTEGER_MAX

_Name = Annotated[str, Meta(min_length=1, max_length=NAME_BYTES_MAX)]
_Text = Annotated[str, Meta(max_length=4096)]
_Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
_Amount = Annotated[int, Meta(ge=0, le=INTEGER_MAX)] | Annotated[str, Meta(pattern=DECIMAL_PATTERN.replace("-?", ""))]
_Quantity = Annotated[int, Meta(ge=-INTEGER_MAX, le=INTEGER_MAX)] | Annotated[str, Meta(pattern=DECIMAL_PATTERN)]


class _Latency(Struct, frozen=True, gc=False, omit_defaults=True):
    total_us: _Count | None = None
    queue_us: _Count | None = None
    upstream_us: _Count | None = None
    first_token_us: _Count | None = None


class _StatedCost(Struct, frozen=True, gc=False, omit_defaults=True):
    amount: _Quantity
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")]


class _Governance(Struct, frozen=True, gc=False, omit_defaults=True):
    residency: _Name | None = None
    purpose: _Name | None = None
    consent: _Name | None = None


class _Data(Struct, frozen=True, gc=False, omit_defaults=True):
    customer: _Name
    usage: Annotated[dict[str, _Amount], Meta(min_length=1, max_length=METERS_MAX)]
    corrects: None = None
    """Corrections are rare and have a rule of their own about signs: they are left to `parse_event`."""
    operation: _Name | None = None
    surface: Surface | None = None
    status: Status | None = None
    status_code: Annotated[int, Meta(ge=0, le=999)] | None = None
    provider: _Name | None = None
    model: _Name | None = None
    latency: _Latency | None = None
    request_bytes: _Count | None = None
    response_bytes: _Count | None = None
    session: _Name | None = None
    user: _Name | None = None
    run: _Name | None = None
    parent: _Name | None = None
    traceparent: Annotated[str, Meta(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | None = None
    cost: _StatedCost | None = None
    tags: Annotated[dict[_Name, _Name], Meta(max_length=TAGS_MAX)] | None = None
    governance: _Governance | None = None
    request_signature: _Text | None = None
    receipt: _Text | None = None
    salt: Annotated[str, Meta(min_length=32, max_length=32)] | None = None


class _Event(Struct, frozen=True, gc=False, omit_defaults=True):
    specversion: Literal["1.0"]
    id: _Name
    source: _Name
    type: Literal["meterproof.usage.v1"]
    time: str
    subject: _Name
    data: _Data
    time_us: int = field(default=0, name="\x7f")
    """Set after decoding. No line can: step 1 lets no spelling of that name through."""


_decoder: Final = msgspec.json.Decoder(_Event)
_encoder: Final = msgspec.json.Encoder()
_decode: Final = _decoder.decode
_encode: Final = _encoder.encode
_BACKSLASH: Final = 0x5C
_DELETE: Final = 0x7F
_is_meter_name: Final = re.compile(r"[a-z][a-z0-9_.]{0,63}").fullmatch
_meter_names: Final[set[str]] = set()
"""Names that were found well spelled before. A deployment declares a few dozen; a flood of others is not remembered."""
_METER_NAMES_MAX: Final = 4096


def read_event(line: bytes) -> Event:
    """The event of a line, by the same rules as `parse_event` and several times as fast for lines as Meter writes them.

    Raises:
        InvalidEvent: exactly when `parse_event` does, with its reason and text.
    """
    # 1. Characters.
    if len(line) > LINE_BYTES_MAX or not line.isascii() or _BACKSLASH in line or _DELETE in line:
        return parse_event(line)
    try:
        # 2. Types and bounds.
        event = _decode(line)
        # 3. Nothing dropped, nothing twice.
        if len(_encode(event)) != len(line) and not _is_canonical(line):
            return parse_event(line)
        # 4. The rest.
        ((time_us,), _) = _finished((event,))
        force_setattr(event, "time_us", time_us)
    except (ValueError, RecursionError):
        return parse_event(line)
    return event


def read_events(lines: Sequence[bytes]) -> list[Event | InvalidEvent]:
    """For each line, its event or the error that `parse_event` raises for it; cheaper than one by one."""
    plain = read_plain_events(lines)
    if plain is None:
        return [_event_or_error(line) for line in lines]
    for event, time_us in zip(plain.events, plain.times_us, strict=True):
        force_setattr(event, "time_us", time_us)
    return plain.events  # type: ignore[return-value]  # a list of its own, so that it may hold errors does no harm


class PlainEvents(NamedTuple):
    """Events of lines that are all spelled the common way, so that none of them is a correction."""

    events: "list[_Event]"
    """One per line, in order. Their `time_us` is not set; it stands beside them."""
    times_us: list[int]
    meters: set[str]
    """All names in all `data.usage`."""


def read_plain_events(lines: Sequence[bytes]) -> PlainEvents | None:
    """The events of lines that the fast path accepts, all of them; None says nothing about any line.

    The proof by length holds for the lines together as for one, since no line can be shorter than what was kept of it:
    equal sums mean that each line is as long as what was kept of it, and that only LF stands between two events.
    """
    joined = b"\n".join(lines)
    if not joined.isascii() or _BACKSLASH in joined or _DELETE in joined:
        return None
    try:
        events = _decoder.decode_lines(joined)
        # A line of known fields alone stays below `LINE_BYTES_MAX`: their own bounds add up to less.
        if len(events) != len(lines) or len(_encoder.encode_lines(events)) != len(joined) + 1:
            return None
        return PlainEvents(events, *_finished(events))
    except (ValueError, RecursionError):
        return None


def _event_or_error(line: bytes) -> Event | InvalidEvent:
    try:
        return read_event(line)
    except InvalidEvent as error:
        return error


def _finished(events: Sequence[_Event]) -> tuple[list[int], set[str]]:
    """Step 4 for all events of a batch together: their times, and the names of their meters.

    Raises:
        ValueError: a field of one of them is not spelled as its rule says.
    """
    datas = [event.data for event in events]
    names: set[str] = set().union(*[data.usage for data in datas])
    if not names <= _meter_names:
        _remember_meter_names(names)
    # Each salt has 32 characters, so all of them are well spelled if and only if their digits in a row are.
    salts = "".join([salt for data in datas if (salt := data.salt) is not None])
    if bytes.fromhex(salts).hex() != salts:
        raise ValueError(salts)
    return parse_instants_us([event.time for event in events]), names


def _is_canonical(line: bytes) -> bool:
    """Whether `orjson` writes the line as it stands, and it cannot be nested too deeply."""
    return line.count(b"{") + line.count(b"[") <= DEPTH_MAX and orjson.dumps(orjson.loads(line)) == line


def _remember_meter_names(names: Iterable[str]) -> None:
    for name in names:
        if not _is_meter_name(name):
            raise ValueError(name)
    if len(_meter_names) < _METER_NAMES_MAX:
        _meter_names.update(names)
