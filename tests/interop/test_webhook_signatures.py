"""A webhook that we signed is taken by the specification's own package; a changed one it refuses."""

import base64
import json
import time
from pathlib import Path

import pytest

from meterproof_sinks.webhook_message import message_of
from meterproof_sinks.webhook_signature import WebhookSecret
from tests.alerts import alert
from tests.interop.tools import verdict

pytestmark = pytest.mark.timeout(900)  # where it is the first, it builds the tools

SECRETS = [f"whsec_{base64.b64encode(bytes([number]) * size).decode()}" for number, size in ((1, 24), (2, 64), (3, 32))]


def refused(folder: Path, secret: str, *messages: tuple[dict[str, str], bytes]) -> str:
    """What the package finds wrong; empty if nothing."""
    case = folder / "case.json"
    stated = [{"headers": headers, "body": base64.b64encode(body).decode()} for headers, body in messages]
    case.write_text(json.dumps({"secret": secret, "messages": stated}))
    code, said = verdict("verify-standardwebhooks", case)
    assert (code != 0) == ("WebhookVerificationError" in said), said
    return said


def test_what_we_sign_is_taken_and_what_was_changed_is_refused(tmp_path: Path) -> None:
    now_s = int(time.time())
    messages = [message_of(alert(subject)) for subject in ("agent-1", 'Zürich 🌍 \\ "quoted" \u2028')]
    for secret in SECRETS:
        signing = WebhookSecret(secret, "here")
        sent = [(signing.headers(one.id, now_s, one.body), one.body) for one in messages]
        assert refused(tmp_path, secret, *sent) == ""
    rotating = WebhookSecret("\n".join(SECRETS), "here")
    headers, body = rotating.headers(messages[0].id, now_s, messages[0].body), messages[0].body
    for secret in SECRETS:
        assert refused(tmp_path, secret, (headers, body)) == ""
    other = f"whsec_{base64.b64encode(bytes(32)).decode()}"
    for change in (
        (other, headers, body),
        (SECRETS[0], headers, body.replace(b"agent-1", b"agent-2")),
        (SECRETS[0], headers | {"webhook-id": "alert_other"}, body),
        (SECRETS[0], headers | {"webhook-timestamp": str(now_s + 1)}, body),
        (SECRETS[0], rotating.headers(messages[0].id, now_s - 3600, body), body),
    ):
        assert refused(tmp_path, change[0], change[1:]) != ""
