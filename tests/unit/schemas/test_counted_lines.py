"""`count_lines` says what `counted` says of each line's event, in whole numbers."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas.correction import correction_line, counted
from meterproof_schemas.counted_lines import count_lines
from meterproof_schemas.effect import Effect
from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import parse_event
from meterproof_schemas.price_book import PriceBook
from meterproof_schemas.scopes import subject_in
from tests.unit.schemas.documents import valid_document
from tests.unit.schemas.test_rating import BOOKS, events

FIRST = 7
"""Position of the first line."""
SCOPES = ("agent", "customer", "service", "user", "session", "team", "tag:cost-centre", "all")
TAGS = st.none() | st.dictionaries(st.sampled_from(["team", "cost-centre", "else"]), st.sampled_from(["a", "b|"]))
corrections = st.tuples(st.sampled_from(["void", "replace"]), st.sampled_from(Effect))


@st.composite
def lines_and_effects(draw: st.DrawFn) -> tuple[list[bytes], dict[int, Effect]]:
    lines, effects = [], {}
    for position in range(FIRST, FIRST + draw(st.integers(0, 4))):
        document = orjson.loads(draw(events()))
        for name, values in (("user", ["u", None]), ("session", ["s", ""])):
            if value := draw(st.sampled_from(values)):
                document["data"][name] = value
        if (tags := draw(TAGS)) is not None:
            document["data"]["tags"] = tags
        line = orjson.dumps(document)
        correction = None if "corrects" in document["data"] else draw(st.none() | corrections)
        if correction is not None:
            kind, effects[position] = correction
            usage = None if kind == "void" else dict.fromkeys(document["data"]["usage"], "0.5")
            line = correction_line(line, correction_id="c", kind=kind, salt="0" * 32, usage=usage)
        lines.append(line)
    return lines, effects


def exact(value: Decimal) -> int:
    """In 10^-12."""
    whole = Fraction(value) * 10**12
    assert whole.denominator == 1
    return int(whole)


@settings(max_examples=150)
@given(lines_and_effects(), st.none() | BOOKS, st.sets(st.sampled_from(["requests", "seconds", "tokens"])))
def test_lines_count_for_what_their_events_count_for(
    drawn: tuple[list[bytes], dict[int, Effect]], book: PriceBook | None, meters: set[str]
) -> None:
    lines, effects = drawn
    found = count_lines(lines, FIRST, effects, book, meters)
    parsed = [parse_event(line) for line in lines]
    expected = [counted(event, effects.get(position), book) for position, event in enumerate(parsed, FIRST)]
    assert found.events == [one.events for one in expected]
    assert found.spends == [exact(one.spend) for one in expected]
    assert found.times_us == [event.time_us for event in parsed]
    assert [event.time for event in found.who] == [event.time for event in parsed]
    assert found.usages == (
        [{meter: exact(quantity) for meter, quantity in one.usage.items() if meter in meters} for one in expected]
        if meters
        else []
    )
    for scope in SCOPES:
        assert [subject_in(scope, event) for event in found.who] == [subject_in(scope, event) for event in parsed]


def test_effects_of_positions_that_are_not_among_the_lines_are_nobodys() -> None:
    line = orjson.dumps(valid_document())
    effects = {FIRST - 1: Effect.UNKNOWN_TARGET, FIRST + 1: Effect.UNKNOWN_TARGET}
    assert count_lines([line], FIRST, effects, None).events == [1]


@pytest.mark.parametrize(
    ("lines", "effects"),
    [([b""], {}), ([b"{}"], {}), ([orjson.dumps(valid_document())], {FIRST: Effect.APPLIED})],
    ids=["nothing", "no event", "a correction without the event that it corrects"],
)
def test_what_no_log_accepts_is_refused(lines: Sequence[bytes], effects: dict[int, Any]) -> None:
    with pytest.raises(InvalidEvent):
        count_lines(lines, FIRST, effects, None)
