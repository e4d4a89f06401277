"""Whether Ed25519 signatures are valid; those of keys that sign often at a quarter of the price.

The rule is the library's (libsodium). The quick way only ever accepts, and what it accepts keeps RFC 8032's equation as
it stands: R is the encoding of S·B − h·A, which is the strictest of all readings in use. With A in the group of prime
order and R not its neutral element, nothing is left that a library could refuse. It needs multiples of the key, which
are made once: natively, so it is there if a C compiler was when this package was installed.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha512
from typing import Final, NamedTuple, Protocol

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign_BYTES,
    crypto_sign_open,
    has_crypto_core_ed25519,
)
from nacl.exceptions import BadSignatureError

try:
    from meterproof_schemas._edwards25519 import Multiples, sums_of
except ImportError:
    NATIVE = False
else:
    NATIVE = True

KEYS_MAX: Final = 256
"""Keys of which multiples are kept, 58 KB each; all others are verified by the library."""
USES_BEFORE: Final = 8
"""Signatures of a key that the library accepts before its multiples are made, which costs as much as five."""
_TOP_BYTE_MAX: Final = 0x10
"""Highest byte of 2^252."""
_P: Final = 2**255 - 19
"""Of the field."""
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Of the group."""
_D: Final = -121665 * pow(121666, -1, _P) % _P
"""Of the curve −x² + y² = 1 + d x² y²."""
_SQRT_MINUS_1: Final = pow(2, (_P - 1) // 4, _P)
_BASE: Final = (4 * pow(5, -1, _P) % _P).to_bytes(32, "little")
_NEUTRAL: Final = (1).to_bytes(32, "little")


class Signed(NamedTuple):
    """A message, and what is said to be a signature of it."""

    public_key: bytes
    """32 bytes."""
    signature: bytes
    """Of whatever length."""
    message: bytes


class Ed25519Check(Protocol):
    """Whether signatures are valid."""

    def __call__(self, signed: Sequence[Signed], /) -> list[bool]:
        """One verdict for each, in order."""


def library_check(signed: Sequence[Signed], /) -> list[bool]:
    """The rule: an `Ed25519Check`."""
    return list(map(_library_accepts, signed))


def _library_accepts(signed: Signed) -> bool:
    if len(signed.signature) != crypto_sign_BYTES:  # what is longer would be taken for a part of the message
        return False
    try:
        crypto_sign_open(signed.signature + signed.message, signed.public_key)
    except BadSignatureError:
        return False
    return True


class QuickChecks:
    """An `Ed25519Check` that keeps multiples of keys; lives as long as its keys are in use.

    Promises: it accepts what `library_check` does, and nothing else. A key's multiples are used only after they have
    accepted a signature that the library had accepted.
    """

    def __init__(self) -> None:
        self._uses: dict[bytes, int] = {}
        self._negated: dict[bytes, Multiples] = {}

    @property
    def kept(self) -> int:
        """Keys of which multiples are kept."""
        return len(self._negated)

    def __call__(self, signed: Sequence[Signed], /) -> list[bool]:
        """See `Ed25519Check`."""
        verdicts = _quick_verdicts(signed, self._negated)
        for number, accepted in enumerate(verdicts):
            if not accepted and _library_accepts(signed[number]):
                verdicts[number] = True
                self._note_use(signed[number])
        return verdicts

    def _note_use(self, valid: Signed) -> None:
        """Make multiples of a key that has now signed often."""
        uses = self._uses[valid.public_key] = self._uses.get(valid.public_key, 0) + 1
        if uses != USES_BEFORE or len(self._negated) >= KEYS_MAX or not NATIVE or not has_crypto_core_ed25519:
            return
        if crypto_core_ed25519_is_valid_point(valid.public_key):
            negated = _multiples_of(valid.public_key, negated=True)
            if _quick_verdicts([valid], {valid.public_key: negated})[0]:
                self._negated[valid.public_key] = negated


def _quick_verdicts(signed: Sequence[Signed], negated: "Mapping[bytes, Multiples]") -> list[bool]:
    """What is verified as RFC 8032, section 5.1.7 says, for keys in the group of prime order; False says nothing.

    1. S is below the group's order, since it is below 2^252.
    2. h is the digest of R, A and the message.
    3. S·B − h·A is R, and is not the neutral element: the one point of a small order that it can be.
    """
    verdicts = [False] * len(signed)
    numbers: list[int] = []
    terms: list[tuple[bytes, Multiples, bytes]] = []
    for number, (public_key, signature, message) in enumerate(signed):
        multiples = negated.get(public_key)
        if multiples is None or len(signature) != crypto_sign_BYTES or signature[-1] >= _TOP_BYTE_MAX:  # 1
            continue
        h = int.from_bytes(sha512(signature[:32] + public_key + message).digest(), "little") % _ORDER  # 2
        terms.append((signature[32:], multiples, h.to_bytes(32, "little")))
        numbers.append(number)
    if terms:
        for number, point in zip(numbers, sums_of(_base(), terms), strict=True):  # 3
            verdicts[number] = point == signed[number].signature[:32] and point != _NEUTRAL
    return verdicts


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
