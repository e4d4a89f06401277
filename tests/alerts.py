"""Alerts for tests of whoever carries them."""

from meterproof_schemas.budget import Alert

START = "2026-01-31T00:00:00.000000Z"


def alert(subject: str = "agent-1", **change: object) -> Alert:
    """An alert of an agent's daily budget."""
    stated: dict[str, object] = {
        "v": 1,
        "budget": "daily",
        "scope": "agent",
        "subject": subject,
        "window": "day",
        "zone": "UTC",
        "start": START,
        "threshold": "80",
        "limit": "25",
        "spend": "20.000000000001",
        "currency": "USD",
        "log": f"meter.example.com/test/{'0' * 32}/p0",
        "position": 7,
        "event_time": START,
        "append_ms": 1_769_817_600_000,
    }
    return Alert.model_validate(stated | change)
