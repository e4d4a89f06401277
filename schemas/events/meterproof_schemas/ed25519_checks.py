"""Whether Ed25519 signatures are valid; those of keys that sign often at a third of the price.

The rule is the library's (libsodium). The quick way only ever accepts, and what it accepts keeps RFC 8032's equation as
it stands: R is the encoding of S·B − h·A, which is the strictest of all readings in use. With A in the group of prime
order and R not its neutral element, nothing is left that a library could refuse. It needs multiples of the key, which
are made once: natively, so it is there if a C compiler was when this package was installed.
"""

from functools import cache
from hashlib import sha512
from typing import Final, Protocol

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign_BYTES,
    crypto_sign_open,
    has_crypto_core_ed25519,
)
from nacl.exceptions import BadSignatureError

try:
    from meterproof_schemas._edwards25519 import Multiples, sum_of
except ImportError:
    NATIVE = False
else:
    NATIVE = True

KEYS_MAX: Final = 256
"""Keys of which multiples are kept, 61 KB each; all others are verified by the library."""
USES_BEFORE: Final = 8
"""Signatures of a key that the library accepts before its multiples are made, which costs as much as five."""
_SCALAR_BYTES: Final = 32
_P: Final = 2**255 - 19
"""Of the field."""
_L: Final = 2**252 + 27742317777372353535851937790883648493
"""Order of the group."""
_D: Final = -121665 * pow(121666, -1, _P) % _P
"""Of the curve −x² + y² = 1 + d x² y²."""
_SQRT_MINUS_1: Final = pow(2, (_P - 1) // 4, _P)
_BASE: Final = (4 * pow(5, -1, _P) % _P).to_bytes(32, "little")
_NEUTRAL: Final = (1).to_bytes(32, "little")


class Ed25519Check(Protocol):
    """Whether a signature of a message by a key is valid."""

    def __call__(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        """For a key of 32 bytes, and a signature of whatever length."""


def library_accepts(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """The rule."""
    if len(signature) != crypto_sign_BYTES:  # what is longer would be taken for a part of the message
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


class QuickChecks:
    """An `Ed25519Check` that keeps multiples of keys; lives as long as its keys are in use.

    Promises: it accepts what `library_accepts` does, and nothing else. A key's multiples are used only after they have
    accepted a signature that the library had accepted.
    """

    def __init__(self) -> None:
        self._uses: dict[bytes, int] = {}
        self._negated: dict[bytes, Multiples] = {}

    @property
    def kept(self) -> int:
        """Keys of which multiples are kept."""
        return len(self._negated)

    def __call__(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        """See `Ed25519Check`."""
        negated = self._negated.get(public_key)
        if negated is not None and self._holds(negated, public_key, signature, message):
            return True
        if not library_accepts(public_key, signature, message):
            return False
        if negated is None and NATIVE:
            self._note_use(public_key, signature, message)
        return True

    def _holds(self, negated: "Multiples", public_key: bytes, signature: bytes, message: bytes) -> bool:
        """Verification of RFC 8032, section 5.1.7, for a key in the group of prime order.

        1. S is below the group's order.
        2. h is the digest of R, A and the message.
        3. S·B − h·A is R, and is not the neutral element: the one point of a small order that it can be.
        """
        if len(signature) != crypto_sign_BYTES:
            return False
        point, scalar = signature[:_SCALAR_BYTES], signature[_SCALAR_BYTES:]
        if int.from_bytes(scalar, "little") >= _L:  # 1
            return False
        h = int.from_bytes(sha512(point + public_key + message).digest(), "little") % _L  # 2
        found = sum_of(_base(), scalar, negated, h.to_bytes(_SCALAR_BYTES, "little"))  # 3
        return found == point and point != _NEUTRAL

    def _note_use(self, public_key: bytes, signature: bytes, message: bytes) -> None:
        """Make multiples of a key that has now signed often; this is a valid signature."""
        uses = self._uses[public_key] = self._uses.get(public_key, 0) + 1
        if uses != USES_BEFORE or len(self._negated) >= KEYS_MAX:
            return
        if has_crypto_core_ed25519 and crypto_core_ed25519_is_valid_point(public_key):
            negated = _multiples_of(public_key, negated=True)
            if self._holds(negated, public_key, signature, message):
                self._negated[public_key] = negated


@cache
def _base() -> "Multiples":
    return _multiples_of(_BASE, negated=False)


def _multiples_of(encoded: bytes, *, negated: bool) -> "Multiples":
    """Multiples of a point that is encoded as it must be (RFC 8032, section 5.1.3), or of its negative."""
    number = int.from_bytes(encoded, "little")
    y, odd = number & (2**255 - 1), number >> 255
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _SQRT_MINUS_1 % _P
    if (x & 1 != odd) != negated:
        x = _P - x
    return Multiples(x.to_bytes(32, "little"), y.to_bytes(32, "little"))
