r"""Corrections: taking an earlier event back, or putting another quantity in its place; what that does to every total.

A correction is an event that says again everything that the event it corrects says, under an id of its own, and carries
that event's line:

```json
{"specversion":"1.0","id":"…","source":"gateway","type":"meterproof.usage.v1","time":"…","subject":"…",
 "data":{"customer":"…","usage":{…},…,"corrects":{"id":"…","kind":"void","line":"{\"specversion\":…}"}}}
```
So no reader looks anything up. A void has the usage of the event that it takes back; a replacement has the usage that
should have been reported. Everything else is as it was, the time included: the effect is in the event's own period, and
a correction that comes later than the log's horizon is `too_late` like any other event.

Whoever appends to the log states for each accepted correction what it does (`Effect`), since only the log before it
tells. An event can be corrected once, and a correction cannot be corrected.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

import orjson

from meterproof_schemas.effect import Effect
from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import Event, UsageEvent, encode_event, entry_of, identity_of, parse_event
from meterproof_schemas.log_record import Limits
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.quantity import EXACT, decimal_of
from meterproof_schemas.rating import price
from meterproof_schemas.reasons import Reason

_OWN: Final = frozenset({"salt", "corrects"})
"""Fields of `data` that are a correction's own."""
_NOTHING: Final = Decimal(0)
_US_PER_MS: Final = 1_000


class Counted(NamedTuple):
    """What one accepted line adds to every total that it belongs to; negative for what is taken back."""

    events: int
    usage: Mapping[str, Decimal]
    spend: Decimal


def counted(event: Event, effect: Effect | None, book: PriceBook | None) -> Counted:
    """What an accepted line counts for: the one function by which every sum is made.

    Args:
        event: of the line.
        effect: what its log record states of a correction; None for any other event.
        book: the price book that its log record names.

    Raises:
        InvalidEvent: a correction with an effect carries no event; no log accepts one.
    """
    if effect is None:
        usage = {meter: decimal_of(quantity) for meter, quantity in event.data.usage.items()}
        return Counted(1, usage, _NOTHING if book is None else price(event, book).amount)
    if effect is not Effect.APPLIED:
        return Counted(0, {}, _NOTHING)
    before = counted(corrected(event), None, book)
    if event.data.corrects is not None and event.data.corrects.kind == "void":
        return Counted(-1, {meter: -quantity for meter, quantity in before.usage.items()}, -before.spend)
    after = counted(event, None, book)
    usage = {
        meter: EXACT.subtract(after.usage.get(meter, _NOTHING), before.usage.get(meter, _NOTHING))
        for meter in {**after.usage, **before.usage}
    }
    return Counted(0, usage, EXACT.subtract(after.spend, before.spend))


def corrected(correction: Event) -> UsageEvent:
    """The event that a correction carries.

    Raises:
        InvalidEvent: `correction_not_allowed`: it carries none that it may correct; says what to do.
    """
    corrects = correction.data.corrects
    if corrects is None or corrects.line is None:
        raise _not_allowed("line: missing; state the line of the event that is corrected, verbatim, as a JSON string")
    try:
        target = parse_event(corrects.line.encode())
    except InvalidEvent as error:
        raise _not_allowed(f"line: not an event of the contract: {error.detail}") from None
    if target.data.corrects is not None:
        raise _not_allowed("line: itself a correction; correct the event that it corrects, which can be done once")
    if target.id != corrects.id:
        raise _not_allowed("id: not that of the event in line")
    return target


def is_correction(document: Mapping[str, Any]) -> bool:
    """Whether an event, as its JSON says it, is a correction."""
    return document["data"].get("corrects") is not None


def check_correction(correction: Event, line: bytes) -> UsageEvent:
    """The event that a correction corrects, if it may: it says the same of everything but what it puts right.

    Args:
        correction: a valid event with `data.corrects`.
        line: its line.

    Raises:
        InvalidEvent: `correction_not_allowed`, naming the field.
    """
    target = corrected(correction)
    document, original = orjson.loads(line), orjson.loads(_line_of(correction))
    void = correction.data.corrects is not None and correction.data.corrects.kind == "void"
    own = _OWN if void else _OWN | {"usage"}
    for where, theirs, ours, free in (
        ("", document, original, {"id", "data"}),
        ("data.", document["data"], original["data"], own),
    ):
        for name in theirs.keys() | ours.keys():
            if name not in free and theirs.get(name) != ours.get(name):
                raise InvalidEvent(
                    Reason.CORRECTION_NOT_ALLOWED,
                    f"{where}{name}: not as in the event that is corrected; void the event and report it anew",
                )
    if not void and correction.data.usage.keys() != target.data.usage.keys():
        raise InvalidEvent(
            Reason.CORRECTION_NOT_ALLOWED,
            "data.usage: other meters than in the event that is replaced; void the event and report it anew",
        )
    return target


def effect_of(target_line: bytes, held: bytes | None, *, corrected_before: bool) -> Effect:
    """The effect of a correction as far as the log's identities tell; `Effect.OTHER_PRICE` is not theirs to tell.

    Args:
        target_line: the line that the correction carries.
        held: the entry that the log has accepted under the identity of that line's event, if any.
        corrected_before: whether the log holds the `claim_of` that event.

    """
    if held is None:
        return Effect.UNKNOWN_TARGET
    if held != entry_of(target_line):
        return Effect.OTHER_CONTENT
    return Effect.ALREADY_CORRECTED if corrected_before else Effect.APPLIED


def accepted_since_ms(target: Event, limits: Limits) -> int:
    """The lowest ingest clock with which a log of these limits can have accepted an event."""
    return target.time_us // _US_PER_MS - limits.future_tolerance_ms


def same_price(event: Event, books: Iterable[PriceBook | None]) -> bool:
    """Whether an event costs the same by each of these books; None is to have no book."""
    prices: set[tuple[Decimal, str]] = set()
    for book in books:
        if book is None:
            prices.add((_NOTHING, ""))
        else:
            rated = price(event, book)
            prices.add((rated.amount, rated.currency))
    return len(prices) <= 1


def claim_of(source: str, event_id: str) -> bytes:
    """16 bytes that an index holds once an event was corrected; those of no event, whose source cannot be empty."""
    return identity_of("", f"{source}\0{event_id}")


def correction_line(
    line: bytes, *, correction_id: str, kind: str, salt: str, usage: Mapping[str, Any] | None = None
) -> bytes:
    """The line of a correction of the event of `line`; of a replacement, `usage` has what it should have said.

    Not validated, but for what it corrects.

    Raises:
        InvalidEvent: `line` is not an event of the contract, or a quantity has no spelling in it, like 2^64.
    """
    parse_event(line)
    document = orjson.loads(line)
    data = document["data"]
    corrects = {"id": document["id"], "kind": kind, "line": line.decode()}
    own = {"usage": data["usage"] if usage is None else usage, "salt": salt, "corrects": corrects}
    try:
        return encode_event(document | {"id": correction_id, "data": data | own})
    except (orjson.JSONEncodeError, TypeError) as error:
        raise InvalidEvent(Reason.MALFORMED_EVENT, f"a value cannot be written: {error}") from None


def _line_of(correction: Event) -> bytes:
    corrects = correction.data.corrects
    return b"" if corrects is None or corrects.line is None else corrects.line.encode()


def _not_allowed(detail: str) -> InvalidEvent:
    return InvalidEvent(Reason.CORRECTION_NOT_ALLOWED, f"data.corrects.{detail}")
