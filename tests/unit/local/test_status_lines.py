"""What a person sees of a worker says what is wrong with it."""

from typing import Any

import pytest

from meterproof_local.status_lines import how_far

PARTITIONS = {"0": {"position": 1200, "lag": 3, "foreign": 0}, "1": {"position": 34, "lag": None, "foreign": 2}}
ENDPOINTS = {
    "pager": {"waiting": 2, "delivered": 7, "dead": 1, "failing": "answered 500"},
    "chat": {"waiting": 0, "delivered": 0, "dead": 0, "failing": None},
}
REFUSED = {
    "key_id": "ab12" * 16,
    "producer": "gateway",
    "reason": "unknown_key",
    "events": 4,
    "refused_s": 61.5,
}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "no status yet"),
        ({"state": "running", "partitions": PARTITIONS}, "1,234 events, 3 records behind, 2 echoes skipped"),
        (
            {"state": "running", "endpoints": ENDPOINTS},
            "pager: 7 delivered, 2 waiting, 1 given up, answered 500, chat: 0 delivered",
        ),
        ({"state": "standing by", "endpoints": {}}, "standing by"),
        ({"state": "taking over", "ready": False, "reasons": ["taking over"]}, "taking over, 0 events"),
        (
            {"state": "running", "ready": False, "reasons": ["Kafka does not answer"], "partitions": {}},
            "not ready: Kafka does not answer, 0 events",
        ),
        (
            {"state": "running", "ready": True, "reasons": [], "refused_producers": [REFUSED]},
            "0 events, every event of gateway (key ab12ab12ab12) refused for 62 s: unknown_key",
        ),
    ],
)
def test_a_status_in_few_words(status: dict[str, Any] | None, words: str) -> None:
    assert how_far(status) == words
