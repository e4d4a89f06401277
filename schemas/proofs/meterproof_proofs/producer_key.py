"""Producers' public keys, and when they were to be believed."""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from meterproof_proofs.errors import BadProof

_INSTANT: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class ProducerKey:
    """An Ed25519 public key that signs batches. Immutable; dates are RFC 3339 in UTC, None where there is no bound."""

    public_key: bytes
    """32 bytes (RFC 8032)."""
    producer: str | None = None
    """Whose it is; None for anybody's."""
    valid_from: str | None = None
    """From here on, this instant included."""
    valid_until: str | None = None
    """Before this instant."""
    revoked_at: str | None = None
    """Before this instant too: from then on others may have it."""

    @property
    def key_id(self) -> str:
        """SHA-256 of the key in hexadecimal."""
        return hashlib.sha256(self.public_key).hexdigest()

    def fault_at(self, instant: object) -> str | None:
        """Why the key is not to be believed at an instant; None if it is.

        Raises:
            BadProof: the instant, or one of the key's dates, is not RFC 3339 in UTC.
        """
        if self.valid_from is None and self.valid_until is None and self.revoked_at is None:
            return None
        at = _comparable(instant)
        if self.revoked_at is not None and at >= _comparable(self.revoked_at):
            return f"it was revoked at {self.revoked_at}"
        if self.valid_from is not None and at < _comparable(self.valid_from):
            return f"it is valid from {self.valid_from} on"
        if self.valid_until is not None and at >= _comparable(self.valid_until):
            return f"it was valid until {self.valid_until}"
        return None


def _comparable(instant: object) -> tuple[str, str]:
    """An instant so that a later one is greater, whatever its number of digits."""
    match = _INSTANT.fullmatch(instant) if isinstance(instant, str) else None
    if match is None:
        raise BadProof("who sent it", f"{instant!r} is not a time in RFC 3339, UTC")
    return match[1], (match[2] or "").rstrip("0")
