"""The quick way to verify signatures accepts what the library does, and nothing else."""

import hashlib
import random
from types import ModuleType
from typing import Any

import pytest
from nacl.bindings import crypto_sign_open
from nacl.signing import SigningKey

from meterproof_schemas import ed25519_checks
from meterproof_schemas.ed25519_checks import KEYS_MAX, USES_BEFORE, Ed25519Check, QuickChecks, Signed, library_check
from tests.native_part import native_part

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]
Extended = tuple[int, int, int, int]
"""(x z, y z, z, x y z)."""


def is_square(number: int) -> bool:
    return pow(number, (P - 1) // 2, P) == 1


def recovered(y: int) -> Point:
    """The point with this y and an even x."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert (x * x - square) % P == 0
    return (P - x if x & 1 else x), y


def added(one: Point, two: Point) -> Point:
    return affine(summed(extended(one), extended(two)))


def times(scalar: int, point: Point) -> Point:
    total, power = (0, 1, 1, 0), extended(point)
    while scalar:
        if scalar & 1:
            total = summed(total, power)
        power, scalar = summed(power, power), scalar >> 1
    return affine(total)


def extended(point: Point) -> Extended:
    x, y = point
    return x, y, 1, x * y % P


def affine(point: Extended) -> Point:
    x, y, z, _ = point
    inverse = pow(z, -1, P)
    return x * inverse % P, y * inverse % P


def summed(one: Extended, two: Extended) -> Extended:
    """RFC 8032, section 5.1.4."""
    (x1, y1, z1, t1), (x2, y2, z2, t2) = one, two
    a, b = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    c, d = 2 * D * t1 * t2 % P, 2 * z1 * z2 % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def in_bytes(number: int) -> bytes:
    return number.to_bytes(32, "little")


BASE = recovered(4 * pow(5, -1, P) % P)
TORSION = times(L, recovered(3))
"""A point of order 8."""
SMALL = sorted({encoded(times(number, TORSION)) for number in range(8)})


@pytest.fixture(scope="module")
def native() -> ModuleType:
    return native_part("meterproof_schemas._edwards25519")


def test_sums_of_multiples_are_those_of_the_curve(native: ModuleType) -> None:
    """With scalars of every length, of long runs of equal bits, and at every bound."""
    chosen = random.Random(8032)
    scalars = [0, 1, 2, 3, 63, 64, 65, 127, 128, L - 1, L, 2**254, 2**255 - 1, 2**255 - 2**16, 0x5555 << 200]
    scalars += [chosen.getrandbits(bits) for bits in range(5, 256, 20)]
    scalars += [(1 << high) - (1 << low) for high, low in ((255, 3), (200, 64), (64, 48), (129, 127), (16, 15))]
    base = native.Multiples(*map(in_bytes, BASE))
    for number in range(3):
        point = times(chosen.randrange(1, L), BASE)
        if number == 2:  # no subgroup is taken for granted
            point = added(point, TORSION)
        kept = native.Multiples(*map(in_bytes, point))
        for scalar in scalars:
            other = chosen.choice(scalars)
            wanted = encoded(added(times(scalar, BASE), times(other, point)))
            assert sum_of(native, base, scalar, kept, other) == wanted, (number, scalar, other)
    # The sum of a point and its negative, and of a point and itself: one formula for all.
    negative = native.Multiples(in_bytes(P - BASE[0]), in_bytes(BASE[1]))
    for scalar in scalars:
        assert sum_of(native, base, scalar, negative, scalar) == in_bytes(1)
        assert sum_of(native, base, scalar, base, scalar) == encoded(times(2 * scalar, BASE))


def test_sums_made_side_by_side_are_those_made_alone(native: ModuleType) -> None:
    """However many come together, of whatever points and scalars: each is its own."""
    chosen = random.Random(7748)
    edges = [0, 1, 2, 62, 63, 64, 65, 4096, L - 1, L, 2**18, 2**18 - 1, 2**254, 2**255 - 1, 2**255 - 2, 2**252 + 2**6]
    points = [BASE, (0, 1), (0, P - 1), TORSION, times(chosen.randrange(L), BASE), added(BASE, TORSION)]
    kept = [native.Multiples(*map(in_bytes, point)) for point in points]
    for base in (kept[0], kept[5]):
        terms = [
            (in_bytes(scalar), point, in_bytes(other))
            for point in kept
            for scalar in edges
            for other in (chosen.choice(edges), chosen.getrandbits(255))
        ]
        chosen.shuffle(terms)
        alone = [native.sums_of(base, [term])[0] for term in terms]
        assert native.sums_of(base, terms) == alone
        for count in range(1, 20):
            assert native.sums_of(base, terms[:count]) == alone[:count]


def test_field_elements_at_the_edge(native: ModuleType) -> None:
    """Coordinates just above 0 or below p come out reduced: points are looked for until some are there."""
    neutral = native.Multiples(in_bytes(0), in_bytes(1))
    near = [*range(2, 60), *range(P - 60, P - 1)]
    small = [recovered(y) for y in near if is_square((y * y - 1) * pow(D * y * y + 1, -1, P))]
    assert len(small) > 30
    for x, y in small:
        for point in ((x, y), (P - x, y)):
            kept = native.Multiples(*map(in_bytes, point))
            assert sum_of(native, kept, 1, neutral, 0) == encoded(point)
            assert sum_of(native, kept, 3, neutral, 7) == encoded(times(3, point))


def test_what_is_no_term_is_refused(native: ModuleType) -> None:
    base = native.Multiples(*map(in_bytes, BASE))
    good, other = (bytes(32), base, bytes(32)), (bytes(32), base, bytes(31) + b"\x7f")
    assert native.sums_of(base, []) == []
    assert len(set(native.sums_of(base, [good, other, good]))) == 2
    for terms in ((good,), [base], [good[:2]], [(*good, base)], [(bytes(32), bytes(32), bytes(32))]):
        with pytest.raises(TypeError):
            native.sums_of(base, terms)
    for faulty in ("0" * 32, bytes(31), bytes(33), bytes(31) + b"\x80"):
        for term in ((faulty, base, bytes(32)), (bytes(32), base, faulty)):
            with pytest.raises(ValueError, match="32 bytes"):
                native.sums_of(base, [good, term])
    for arguments in ((base,), (good, [good]), (base, [good], [good])):
        with pytest.raises(TypeError):
            native.sums_of(*arguments)
    with pytest.raises(ValueError, match="32 bytes"):
        native.Multiples(bytes(32), bytes(31))


def test_verdicts_stand_in_the_order_of_what_was_asked() -> None:
    """Keys with and without multiples, valid and refused, mixed: each verdict is that of its own signature."""
    chosen = random.Random(5)
    keys = [SigningKey(bytes([number]) * 32) for number in range(4)]
    checks = warmed(keys[0])
    signed, wanted = [], []
    for number in range(40):
        key, message = chosen.choice(keys), b"%d" % number
        signature = key.sign(message).signature
        valid = chosen.random() < 0.7
        signed.append(Signed(bytes(key.verify_key), signature, message if valid else b"another"))
        wanted.append(valid)
    assert checks(signed) == library_check(signed) == wanted
    assert checks([]) == library_check([]) == []


def one(check: Ed25519Check, public_key: bytes, signature: bytes, message: bytes) -> bool:
    (verdict,) = check([Signed(public_key, signature, message)])
    return verdict


def sum_of(native: ModuleType, point: Any, scalar: int, other: Any, other_scalar: int) -> bytes:
    found: list[bytes] = native.sums_of(point, [(in_bytes(scalar), other, in_bytes(other_scalar))])
    return found[0]


def warmed(key: SigningKey) -> QuickChecks:
    """Checks that keep multiples of a key, where they can."""
    checks, public_key = QuickChecks(), bytes(key.verify_key)
    for number in range(USES_BEFORE):
        message = b"message %d" % number
        assert one(checks, public_key, key.sign(message).signature, message)
    assert checks.kept == ed25519_checks.NATIVE
    return checks


def test_valid_signatures_are_accepted_without_the_library(native: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    del native
    chosen = random.Random(1)
    for _ in range(3):
        key = SigningKey(chosen.randbytes(32))
        checks = warmed(key)
        with monkeypatch.context() as without:
            without.delattr(ed25519_checks, "_library_accepts")
            for size in (0, 1, 47, 48, 63, 64, 65, 127, 128, 500, 4000):
                message = chosen.randbytes(size)
                assert one(checks, bytes(key.verify_key), key.sign(message).signature, message)


def test_what_was_changed_is_refused() -> None:
    """Any one bit of the signature, another message, another key, another length."""
    key, other, message = SigningKey(bytes(32)), SigningKey(bytes(31) + b"\1"), b"a message"
    public_key, signature = bytes(key.verify_key), key.sign(message).signature
    checks = warmed(key)
    assert one(checks, public_key, signature, message)
    for bit in range(8 * len(signature)):
        changed = (int.from_bytes(signature, "little") ^ 1 << bit).to_bytes(64, "little")
        assert not one(checks, public_key, changed, message), bit
    assert not one(checks, public_key, signature, b"another message")
    assert not one(checks, bytes(other.verify_key), signature, message)
    for wrong in (b"", signature[:-1], signature + b"\0", signature + message):
        assert not one(checks, public_key, wrong, message)


def signature_by(secret: int, commitment: Point, nonce: int, message: bytes, public_key: bytes) -> bytes:
    """A signature whose R may be any point: nonce·B and something added to it."""
    point = encoded(commitment)
    h = int.from_bytes(hashlib.sha512(point + public_key + message).digest(), "little") % L
    return point + in_bytes((nonce + h * secret) % L)


def test_odd_signatures_are_judged_as_by_the_library() -> None:
    """What a signer can make who knows the rules: a torsion in R, R of small order, S + L, the nonce 0."""
    key = SigningKey(b"\7" * 32)
    public_key = bytes(key.verify_key)
    checks = warmed(key)
    secret_bytes = bytearray(hashlib.sha512(b"\7" * 32).digest()[:32])
    secret_bytes[0] &= 248
    secret_bytes[31] = secret_bytes[31] & 63 | 64
    secret = int.from_bytes(secret_bytes, "little")
    assert encoded(times(secret, BASE)) == public_key
    assert len(SMALL) == 8
    verdicts = []
    for nonce in (0, 1, 12345):
        for number in range(8):
            message = b"%d %d" % (nonce, number)
            commitment = added(times(nonce, BASE), times(number, TORSION))
            good = signature_by(secret, commitment, nonce, message, public_key)
            above = good[:32] + in_bytes(int.from_bytes(good[32:], "little") + L)
            for signature in (good, above):
                verdict = one(library_check, public_key, signature, message)
                assert one(checks, public_key, signature, message) == verdict, (nonce, number)
                verdicts.append(verdict)
                if checks.kept:  # the quick way by itself
                    signed = [Signed(public_key, signature, message)]
                    assert verdict or not ed25519_checks._quick_verdicts(signed, checks._negated)[0]
    assert any(verdicts)
    assert not all(verdicts)


def test_keys_of_small_or_mixed_order_are_left_to_the_library() -> None:
    mixed = encoded(added(times(5, BASE), TORSION))
    checks = QuickChecks()
    for public_key in (*SMALL, mixed, in_bytes(P), in_bytes(2)):
        for number in range(3 * USES_BEFORE):
            message = b"%d" % number
            signature = signature_by(5, times(number + 1, BASE), number + 1, message, public_key)
            assert one(checks, public_key, signature, message) == one(library_check, public_key, signature, message)
    assert checks.kept == 0


def test_multiples_are_made_for_keys_that_sign_often_and_not_for_too_many(
    native: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    del native
    monkeypatch.setattr(ed25519_checks, "KEYS_MAX", 2)
    assert KEYS_MAX * 61_440 < 16 * 1024 * 1024
    checks, message = QuickChecks(), b"message"
    for number in range(3):
        key = SigningKey(bytes(31) + bytes([number]))
        public_key, signature = bytes(key.verify_key), key.sign(message).signature
        for use in range(USES_BEFORE + 2):
            assert not one(checks, public_key, signature, b"refused signatures make nothing")
            assert checks.kept == min(2, number + (use >= USES_BEFORE))
            assert one(checks, public_key, signature, message)
    assert checks.kept == 2


def test_without_the_native_part_the_library_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ed25519_checks, "NATIVE", False)
    key, message = SigningKey(bytes(32)), b"message"
    checks = warmed(key)
    signature = key.sign(message).signature
    assert one(checks, bytes(key.verify_key), signature, message)
    assert crypto_sign_open(signature + message, bytes(key.verify_key)) == message
    assert not one(checks, bytes(key.verify_key), signature, message + b"!")
