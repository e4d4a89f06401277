"""Base64 in the one spelling that every format of this package takes."""

import base64
import binascii


def decode_base64(encoded: str) -> bytes | None:
    """Decode standard padded base64 (RFC 4648 section 4) in its one canonical spelling; None for anything else."""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    # Left-over bits in the last character could otherwise spell the same bytes in several ways.
    return decoded if base64.b64encode(decoded).decode("ascii") == encoded else None
