"""One alert, one id; another alert, another id."""

from typing import Any

import orjson
import pytest

from meterproof_schemas.budget import decode_alert
from meterproof_sinks.webhook_message import message_of
from tests.alerts import alert


def test_the_body_tells_the_alert() -> None:
    told = alert("agent-1")
    message = message_of(told)
    body = orjson.loads(message.body)
    assert list(body) == ["type", "timestamp", "data"]
    assert (body["type"], body["timestamp"]) == ("budget.alert", "2026-01-31T00:00:00.000Z")
    assert decode_alert(orjson.dumps(body["data"])) == told
    assert "meters" not in body["data"]
    assert message.alert == "daily|agent:agent-1|day|UTC|2026-01-31T00:00:00.000000Z|80"


def test_the_id_is_the_same_in_every_version() -> None:
    """Receivers remember ids: a change of how they are made would repeat every alert."""
    assert message_of(alert("agent-1")).id == "alert_0b73c69e9c654dcad909e0c358d6ac15"


@pytest.mark.parametrize(
    "change", [{"spend": "99"}, {"position": 8}, {"append_ms": 9}, {"log": f"meter.example.com/test/{'0' * 32}/p1"}]
)
def test_an_alert_that_is_raised_again_has_the_same_id(change: dict[str, Any]) -> None:
    assert message_of(alert(**change)).id == message_of(alert("agent-1")).id


@pytest.mark.parametrize(
    "change",
    [
        {"budget": "other"},
        {"scope": "service"},
        {"subject": "agent-2"},
        {"window": "month"},
        {"zone": "Europe/Berlin"},
        {"start": "2026-02-01T00:00:00.000000Z"},
        {"threshold": "100"},
        {"limit": "26"},
        {"currency": "EUR"},
        {"currency": None, "meters": ("input_tokens",)},
        {"log": f"meter.example.com/test/{'1' * 32}/p0"},
        {"log": f"meter.example.com/other/{'0' * 32}/p0"},
    ],
)
def test_another_alert_has_another_id(change: dict[str, Any]) -> None:
    assert message_of(alert(**change)).id != message_of(alert("agent-1")).id
