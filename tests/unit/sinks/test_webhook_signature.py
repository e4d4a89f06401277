"""Signatures as Standard Webhooks has them; secrets stay where they are."""

import pickle
from base64 import b64encode
from pathlib import Path

import pytest

from meterproof_sinks.webhook_signature import (
    InvalidWebhookSecret,
    WebhookSecret,
    secret_of_environment,
    secret_of_file,
)

FIRST = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECOND = f"whsec_{b64encode(bytes(range(64))).decode()}"
VECTORS = [
    # Made by the package standardwebhooks 1.1.0; the first one stands in the specification's own tests as well.
    (
        FIRST,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        '{"test": 2432232314}',
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    (
        SECOND,
        "alert_0123456789abcdef0123456789abcdef",
        1893456000,
        '{"type":"budget.alert","data":{"subject":"Zürich 🌍"}}',
        "v1,v3iT7c/MDIMh6vJked9fSRktCKlbf/QC4/qhxJeYrRA=",
    ),
]


@pytest.mark.parametrize(("secret", "message_id", "timestamp_s", "body", "signature"), VECTORS)
def test_vectors(secret: str, message_id: str, timestamp_s: int, body: str, signature: str) -> None:
    assert WebhookSecret(secret, "here").headers(message_id, timestamp_s, body.encode()) == {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature,
    }


def test_while_a_secret_is_replaced_both_sign() -> None:
    one, two = (WebhookSecret(text, "here").headers("a", 1, b"x")["webhook-signature"] for text in (FIRST, SECOND))
    both = WebhookSecret(f"{FIRST}\n{SECOND}\n", "here")
    assert both.headers("a", 1, b"x")["webhook-signature"] == f"{one} {two}"
    assert one != two


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa*w",
        f"whsec_{b64encode(bytes(23)).decode()}",
        f"whsec_{b64encode(bytes(65)).decode()}",
        f"{FIRST}\nwhsec_short",
    ],
)
def test_another_form_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(InvalidWebhookSecret, match="whsec_ and base64 of 24 to 64 bytes") as refused:
        WebhookSecret(text, "the file x")
    assert "MfKQ" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_secret_is_not_shown_or_written() -> None:
    secret = WebhookSecret(FIRST, "here")
    for text in (repr(secret), str(secret), f"{secret!r:>40}"):
        assert "<WebhookSecret of 1>" in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(InvalidWebhookSecret, match="cannot be read"):
        secret_of_file(path)
    path.write_text(f"{FIRST}\n")
    path.chmod(0o644)
    with pytest.raises(InvalidWebhookSecret, match="chmod o="):
        secret_of_file(path)
    path.chmod(0o640)
    expected = WebhookSecret(FIRST, "here").headers("a", 1, b"x")
    assert secret_of_file(path).headers("a", 1, b"x") == expected
    assert secret_of_environment("HOOK", {"HOOK": FIRST}).headers("a", 1, b"x") == expected
    with pytest.raises(InvalidWebhookSecret, match="HOOK is not set"):
        secret_of_environment("HOOK", {})
