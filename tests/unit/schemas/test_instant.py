"""Instants: one spelling in, microseconds inside, one spelling out."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from meterproof_schemas.instant import (
    Instant,
    format_instant_ms,
    format_instant_us,
    parse_instant_us,
    parse_instants_us,
)

INSTANT: TypeAdapter[str] = TypeAdapter(Instant)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_US = (datetime(1, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
LAST_US = (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


@given(st.integers(FIRST_US, LAST_US))
def test_microseconds_survive_the_round_trip(instant_us: int) -> None:
    text = format_instant_us(instant_us)
    assert parse_instant_us(text) == instant_us
    assert INSTANT.validate_python(text) == text
    assert len(text) == len("2026-01-31T23:59:59.000000Z")


@given(st.integers(-(-FIRST_US // 1000), LAST_US // 1000))
def test_milliseconds_survive_the_round_trip(instant_ms: int) -> None:
    text = format_instant_ms(instant_ms)
    assert parse_instant_us(text) == instant_ms * 1000
    assert len(text) == len("2026-01-31T23:59:59.000Z")


@given(st.datetimes(timezones=st.just(UTC)), st.integers(3, 9), st.integers(0, 999_999_999))
def test_any_number_of_digits_is_cut_below_microseconds(moment: datetime, digits: int, nanoseconds: int) -> None:
    fraction = f"{nanoseconds:09d}"[:digits]
    text = moment.strftime(f"{moment.year:04d}-%m-%dT%H:%M:%S.") + fraction + "Z"
    whole_us = (moment.replace(microsecond=0) - EPOCH) // timedelta(microseconds=1)
    assert parse_instant_us(text) == whole_us + int(f"{fraction:0<9}") // 1000


@pytest.mark.parametrize(
    ("text", "instant_us"),
    [
        ("1970-01-01T00:00:00.000Z", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2000-02-29T12:00:00.000001Z", 951_825_600_000_001),
        ("0001-01-01T00:00:00.000Z", FIRST_US),
        ("9999-12-31T23:59:59.999999999Z", LAST_US),
    ],
)
def test_known_instants(text: str, instant_us: int) -> None:
    assert parse_instant_us(text) == instant_us


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "Z",
            "2026",
            "2026-01-31",
            "2026-01-31T23:59:59Z",
            "2026-01-31T23:59:59.00Z",
            "2026-01-31T23:59:59.0000000000Z",
        ),
        *(
            "2026-01-31T23:59:59.000",
            "2026-01-31T23:59:59.000z",
            "2026-01-31t23:59:59.000Z",
            "2026-01-31 23:59:59.000Z",
        ),
        *(
            "2026-01-31T23:59:59,000Z",
            "2026-01-31T23:59:59.000+00:00",
            "2026-01-31T23:59:60.000Z",
            "2026-01-31T24:00:00.000Z",
        ),
        *(
            "2026-02-29T00:00:00.000Z",
            "1900-02-29T00:00:00.000Z",
            "2026-00-10T00:00:00.000Z",
            "2026-13-10T00:00:00.000Z",
        ),
        *(
            "2026-01-00T00:00:00.000Z",
            "2026-01-32T00:00:00.000Z",
            "0000-01-01T00:00:00.000Z",
            "2026-01-31T23:60:00.000Z",
        ),
        *(
            "2026-01-31T23:59:59.1_3Z",
            "2026-01-31T23:59:59.+12Z",
            "2026-01-31T23:59:59. 12Z",
            "2026-01-31T23:59:59.-12Z",
        ),
        *(
            "2026-01-31T23:59:59.\u0661\u0662\u0663Z",
            "2026-01-31T23:59:59.\u00b2\u00b2\u00b2Z",
            "202\u0666-01-31T23:59:59.000Z",
        ),
        *(
            "2026-01-31T23:59:59.000Z\n",
            " 2026-01-31T23:59:59.000Z",
            "2026-W05-6T23:59:59.000Z",
            "2026-0131T23:59:59.0000Z",
        ),
    ],
)
def test_every_other_spelling_is_refused_by_parser_and_model(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is free
        parse_instant_us(text)
    with pytest.raises(ValidationError):
        INSTANT.validate_python(text)


@given(st.text(alphabet="0123456789-T:.Z", min_size=20, max_size=30))
def test_parser_and_model_agree(text: str) -> None:
    try:
        parse_instant_us(text)
    except ValueError:
        with pytest.raises(ValidationError):
            INSTANT.validate_python(text)
    else:
        assert INSTANT.validate_python(text) == text


def test_instants_outside_the_calendar_are_an_error() -> None:
    with pytest.raises(OverflowError):
        format_instant_us(LAST_US + 1)


@given(
    st.lists(
        st.one_of(
            st.integers(FIRST_US, LAST_US).map(format_instant_us),
            st.integers(-(-FIRST_US // 1000), LAST_US // 1000).map(format_instant_ms),
            st.sampled_from(
                [
                    "2026-01-31T12:00:00.123456789Z",
                    "2026-01-31T12:00:00.12Z",
                    "2026-01-31T12:00:00.1234567890Z",
                    "2026-01-31T12:00:00,123Z",
                    "2026-02-30T12:00:00.123Z",
                    "2026-01-31T12:00:00.123z",
                    "2026-01-31T12:00:00.123+00:00",
                    "2026-01-31T12:00:00.\u0661\u0662\u0663Z",
                    "2026-01-31T12:00:00",
                    "",
                ]
            ),
        ),
        max_size=4,
    )
)
def test_many_at_once_are_what_each_is_alone(texts: list[str]) -> None:
    try:
        alone = [parse_instant_us(text) for text in texts]
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            parse_instants_us(texts)
    else:
        assert parse_instants_us(texts) == alone
