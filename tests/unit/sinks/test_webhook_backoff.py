"""When a message is sent again."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_sinks.webhook_backoff import RETRY_AFTER_MAX_MS, Backoff, retry_after_ms

NOW_MS = 1_769_817_600_000


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(attempts_max=9, first_ms=1_000, longest_ms=10_000)
    assert [backoff.pause_ms(attempts, 0.0) for attempts in range(1, 7)] == [1000, 2000, 4000, 8000, 10_000, 10_000]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_at_most_half_is_left_out(attempts: int, draw: float) -> None:
    backoff = Backoff()
    full_ms = backoff.pause_ms(attempts, 0.0)
    assert full_ms / 2 <= backoff.pause_ms(attempts, draw) <= full_ms <= backoff.longest_ms


def test_by_default_a_message_is_tried_for_at_least_a_day() -> None:
    backoff = Backoff()
    shortest_ms = sum(backoff.pause_ms(attempts, 0.999999) for attempts in range(1, backoff.attempts_max))
    assert shortest_ms > 23 * 3600 * 1000


@pytest.mark.parametrize(
    ("value", "pause_ms"),
    [
        (None, None),
        ("0", 0),
        ("120", 120_000),
        (" 7 ", 7_000),
        ("86401", RETRY_AFTER_MAX_MS),
        ("9" * 60, RETRY_AFTER_MAX_MS),
        (format_datetime(datetime.fromtimestamp(NOW_MS // 1000 + 90, UTC), usegmt=True), 90_000),
        (format_datetime(datetime.fromtimestamp(NOW_MS // 1000 - 90, UTC), usegmt=True), 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_MAX_MS),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("1" * 5_000, None),
        ("Fri, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after(value: str | None, pause_ms: int | None) -> None:
    assert retry_after_ms(value, NOW_MS) == pause_ms


@given(st.text(max_size=80))
def test_no_retry_after_is_too_odd(value: str) -> None:
    pause_ms = retry_after_ms(value, NOW_MS)
    assert pause_ms is None or 0 <= pause_ms <= RETRY_AFTER_MAX_MS
