"""Records of `usage.deliveries`."""

import orjson
import pytest

from meterproof_schemas.delivery import (
    Delivery,
    decode_delivery,
    delivery_key,
    encode_delivery,
    parse_delivery_key,
)
from meterproof_schemas.errors import InvalidRecord

DELIVERY = Delivery(
    v=1,
    sink="webhook",
    endpoint="pager",
    id="alert_1",
    alert="daily|agent:a|day|UTC|2026-01-31T00:00:00.000000Z|80",
    outcome="retrying",
    attempts=2,
    time="2026-01-31T00:00:00.000Z",
    status=503,
    reason="answered 503",
    next_attempt="2026-01-31T00:00:10.000Z",
)
FIRST_RELEASE = (
    b'{"v":1,"sink":"webhook","endpoint":"pager","id":"alert_1",'
    b'"alert":"daily|agent:a|day|UTC|2026-01-31T00:00:00.000000Z|80","outcome":"retrying","attempts":2,'
    b'"time":"2026-01-31T00:00:00.000Z","status":503,"reason":"answered 503",'
    b'"next_attempt":"2026-01-31T00:00:10.000Z"}'
)
"""Frozen: what was ever written stays readable."""


def test_a_delivery_comes_back() -> None:
    assert encode_delivery(DELIVERY) == FIRST_RELEASE
    assert decode_delivery(FIRST_RELEASE) == DELIVERY
    for change in ({"v": 2}, {"x": 1}, {"attempts": 0}, {"outcome": "lost"}, {"id": "a|b"}, {"endpoint": "A"}):
        with pytest.raises(InvalidRecord, match="delivery: "):
            decode_delivery(orjson.dumps(orjson.loads(FIRST_RELEASE) | change))
    with pytest.raises(InvalidRecord):
        decode_delivery(b"")


def test_keys() -> None:
    assert delivery_key("webhook", "pager", "alert_1") == b"webhook|pager|alert_1"
    assert parse_delivery_key(b"webhook|pager|alert_1") == ("webhook", "pager", "alert_1")
    for other in (None, b"", b"doctor", b"a|b", b"a|b|c|d", b"\xff|b|c"):
        assert parse_delivery_key(other) is None
