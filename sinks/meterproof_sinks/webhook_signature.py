"""Signatures of Standard Webhooks (standardwebhooks.com, specification 1.0): symmetric, `v1`."""

import binascii
import hashlib
import hmac
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PREFIX: Final = "whsec_"
KEY_BYTES_MIN: Final = 24
KEY_BYTES_MAX: Final = 64
"""Bounds of the specification, of the key behind the base64."""


class InvalidWebhookSecret(Exception):
    """A secret is missing or not of the kind that the specification asks for; the text never quotes it."""


class WebhookSecret:
    """Signs messages for one endpoint. While a secret is being replaced there are several, and each signs.

    Neither its text nor its representation shows what it holds.
    """

    __slots__ = ("_keys",)

    def __init__(self, text: str, origin: str) -> None:
        """Read secrets: `whsec_` and base64 of 24 to 64 bytes, one a line.

        Args:
            text: the secrets.
            origin: where they come from, for errors.

        Raises:
            InvalidWebhookSecret: there is none, or one is of another form.

        """
        self._keys = tuple(_key(line, origin) for line in text.split())
        if not self._keys:
            raise InvalidWebhookSecret(f"{origin} holds no secret; it should be {PREFIX} and base64 of 24 to 64 bytes")

    def __repr__(self) -> str:
        return f"<WebhookSecret of {len(self._keys)}>"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")

    def headers(self, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
        """The three headers of a message: HMAC-SHA256 over `<id>.<timestamp>.<body>`, once per secret."""
        signed = f"{message_id}.{timestamp_s}.".encode() + body
        signatures = (b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in self._keys)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }


def secret_of_file(path: Path) -> WebhookSecret:
    """The secrets of a file.

    Raises:
        InvalidWebhookSecret: it cannot be read, everybody may read it, or it holds something else.
    """
    origin = f"secret file {path}"
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidWebhookSecret(f"{origin} cannot be read ({type(error).__name__})") from None
    if mode & stat.S_IRWXO:
        raise InvalidWebhookSecret(f"{origin} is readable by everybody; run `chmod o= {path}`")
    return WebhookSecret(text, origin)


def secret_of_environment(name: str, environment: Mapping[str, str] = os.environ) -> WebhookSecret:
    """The secrets of an environment variable; several have white space between.

    Raises:
        InvalidWebhookSecret: it is not set, or holds something else.
    """
    if name not in environment:
        raise InvalidWebhookSecret(f"the environment variable {name} is not set; it should hold the endpoint's secret")
    return WebhookSecret(environment[name], f"the environment variable {name}")


def _key(line: str, origin: str) -> bytes:
    try:
        key = b64decode(line.removeprefix(PREFIX), validate=True) if line.startswith(PREFIX) else b""
    except (binascii.Error, ValueError):
        key = b""
    if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise InvalidWebhookSecret(
            f"{origin} holds something that is not {PREFIX} and base64 of {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes; "
            "make one with `echo whsec_$(head -c 32 /dev/urandom | base64)`"
        )
    return key
