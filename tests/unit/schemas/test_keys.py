"""Who may report what: signatures, validity, revocation, rotation, patterns, and faulty registries."""

import hmac
from base64 import b64encode
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from meterproof_schemas.batch import Algorithm, Signature, signed_bytes
from meterproof_schemas.errors import InvalidBatch, InvalidRegistry
from meterproof_schemas.instant import format_instant_ms
from meterproof_schemas.keys import (
    EMPTY_REGISTRY,
    KeyEntry,
    KeyRegistry,
    encode_registry,
    key_id_of,
    load_registry,
    matches,
    parse_registry,
)
from tests.builders import NOW_MS, SigningPair, make_key, make_registry

HEADER = b'{"v":1}'


def sign(key: SigningPair, header: bytes = HEADER) -> Signature:
    raw = key.signing_key.sign(signed_bytes(header)).signature
    return Signature(key_id=key.key_id, algorithm="ed25519", signature=b64encode(raw).decode())


def verdict(registry: KeyRegistry, *signatures: Signature, producer: str = "gateway", append_ms: int = NOW_MS) -> str:
    """`ok:` and the number of authorised keys, or the reason."""
    try:
        return f"ok:{len(registry.authorities(HEADER, signatures, producer, append_ms))}"
    except InvalidBatch as error:
        return error.reason


GATEWAY = make_key()
SECOND = make_key("second", producer="gateway")
OTHER = make_key("other")
UNKNOWN = make_key("unknown", producer="gateway")
REVOKED = make_key("revoked", producer="gateway", revoked_at=format_instant_ms(NOW_MS))
EXPIRED = make_key("expired", producer="gateway", valid_until=format_instant_ms(NOW_MS))
FUTURE = make_key("future", producer="gateway", valid_from=format_instant_ms(NOW_MS + 1))
REGISTRY = make_registry(GATEWAY, SECOND, OTHER, REVOKED, EXPIRED, FUTURE)
BROKEN = sign(GATEWAY, b"another header")


@pytest.mark.parametrize(
    ("signatures", "expected"),
    [
        ([sign(GATEWAY)], "ok:1"),
        ([sign(GATEWAY), sign(SECOND)], "ok:2"),
        ([sign(UNKNOWN)], "unknown_key"),
        ([sign(UNKNOWN), sign(GATEWAY)], "ok:1"),
        ([sign(GATEWAY), sign(UNKNOWN, b"x")], "ok:1"),
        ([BROKEN], "bad_signature"),
        ([sign(SECOND), BROKEN], "bad_signature"),
        ([BROKEN, sign(SECOND)], "bad_signature"),
        ([sign(UNKNOWN), BROKEN], "bad_signature"),
        ([sign(OTHER)], "key_not_allowed"),
        ([sign(OTHER), sign(GATEWAY)], "ok:1"),
        ([sign(REVOKED)], "revoked_key"),
        ([sign(REVOKED), sign(GATEWAY)], "ok:1"),
        ([sign(REVOKED), sign(EXPIRED)], "revoked_key"),
        ([sign(REVOKED), sign(OTHER)], "key_not_allowed"),
        ([sign(EXPIRED)], "key_not_allowed"),
        ([sign(FUTURE)], "key_not_allowed"),
        ([sign(FUTURE), sign(EXPIRED)], "key_not_allowed"),
        ([sign(REVOKED, b"x"), sign(GATEWAY)], "bad_signature"),
        ([], "unknown_key"),
    ],
)
def test_every_known_signature_verifies_and_one_is_authorised(signatures: list[Signature], expected: str) -> None:
    assert verdict(REGISTRY, *signatures) == expected


@pytest.mark.parametrize(
    ("key", "append_ms", "expected"),
    [
        (REVOKED, NOW_MS - 1, "ok:1"),
        (REVOKED, NOW_MS, "revoked_key"),
        (EXPIRED, NOW_MS - 1, "ok:1"),
        (EXPIRED, NOW_MS, "key_not_allowed"),
        (FUTURE, NOW_MS, "key_not_allowed"),
        (FUTURE, NOW_MS + 1, "ok:1"),
        (GATEWAY, 0, "ok:1"),
    ],
)
def test_validity_and_revocation_are_judged_by_append_time(key: SigningPair, append_ms: int, expected: str) -> None:
    assert verdict(REGISTRY, sign(key), append_ms=append_ms) == expected


@pytest.mark.parametrize("append_ms", [NOW_MS - 1, NOW_MS, NOW_MS + 1, NOW_MS + 2])
def test_rotation_overlaps_without_a_moment_unsigned(append_ms: int) -> None:
    """Both keys sign while the old one expires and before the new one begins."""
    old = make_key("old", producer="gateway", valid_until=format_instant_ms(NOW_MS + 2))
    new = make_key("new", producer="gateway", valid_from=format_instant_ms(NOW_MS))
    registry = make_registry(old, new)
    assert verdict(registry, sign(old), sign(new), append_ms=append_ms).startswith("ok:")
    assert verdict(make_registry(old), sign(old), sign(new), append_ms=NOW_MS) == "ok:1"


def test_revocation_comes_before_validity() -> None:
    key = make_key(revoked_at=format_instant_ms(NOW_MS), valid_until=format_instant_ms(NOW_MS))
    assert verdict(make_registry(key), sign(key)) == "revoked_key"


@pytest.mark.parametrize(
    ("signature", "algorithm"),
    [
        ("A" * 86 + "==", "ed25519"),
        ("AAAA", "ed25519"),
        ("A", "ed25519"),
        ("AAA=A", "ed25519"),
        (sign(GATEWAY).signature, "hmac-sha256"),
    ],
)
def test_what_is_no_signature_does_not_verify(signature: str, algorithm: Algorithm) -> None:
    made = Signature.model_construct(key_id=GATEWAY.key_id, algorithm=algorithm, signature=signature)
    assert verdict(REGISTRY, made) == "bad_signature"


def test_every_flipped_bit_of_a_signature_shows() -> None:
    raw = GATEWAY.signing_key.sign(signed_bytes(HEADER)).signature
    for bit in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        made = Signature(key_id=GATEWAY.key_id, algorithm="ed25519", signature=b64encode(changed).decode())
        assert verdict(REGISTRY, made) == "bad_signature"


def test_signed_bytes_are_the_pre_authentication_encoding_of_dsse() -> None:
    kind = b"application/vnd.meterproof.batch-header.v1+json"
    assert signed_bytes(HEADER) == b"DSSEv1 47 " + kind + b" 7 " + HEADER
    assert len(kind) == 47


# --- shared secrets ---------------------------------------------------------------------------------------------------


def shared(folder: Path, secret: bytes = b"s" * 32) -> KeyRegistry:
    (folder / "secret").write_bytes(secret)
    entry = KeyEntry(
        key_id="shared",
        algorithm="hmac-sha256",
        secret_file="secret",
        producer="gateway",
        sources=("*",),
        agents=("*",),
        customers=("*",),
    )
    return parse_registry(encode_registry([entry, GATEWAY.entry]), folder=folder)


def mac(secret: bytes, key_id: str = "shared") -> Signature:
    made = hmac.digest(secret, signed_bytes(HEADER), "sha256")
    return Signature(key_id=key_id, algorithm="hmac-sha256", signature=b64encode(made).decode())


def test_hmac_only_where_the_entry_says_so(tmp_path: Path) -> None:
    registry = shared(tmp_path, b"s" * 32 + b"\n")
    assert verdict(registry, mac(b"s" * 32)) == "ok:1"
    assert verdict(registry, mac(b"t" * 32)) == "bad_signature"
    public = bytes(GATEWAY.signing_key.verify_key)
    assert verdict(registry, mac(public, GATEWAY.key_id)) == "bad_signature"
    assert (
        verdict(registry, Signature(key_id="shared", algorithm="ed25519", signature=sign(GATEWAY).signature))
        == "bad_signature"
    )


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    registry = shared(tmp_path, b"SECRET" * 8)
    assert "SECRET" not in repr(registry)
    assert "secret" not in repr(registry.entries["shared"]).replace("secret_file", "")
    with pytest.raises(InvalidRegistry) as refusal:
        shared(tmp_path, b"SHORT")
    assert "SHORT" not in str(refusal.value)
    assert "32" in str(refusal.value)


# --- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        (("a",), "a", True),
        (("a",), "ab", False),
        (("a",), "", False),
        (("*",), "", True),
        (("*",), "anything", True),
        (("a*",), "a", True),
        (("a*",), "b", False),
        (("a/*",), "a", False),
        (("a/*",), "a/b/c", True),
        (("a*c",), "abc", False),
        (("a*c",), "a*c", True),
        (("*c",), "abc", False),
        (("x", "a*"), "ab", True),
        ((), "a", False),
        (("a**",), "ab", False),
        (("a**",), "a*b", True),
    ],
)
def test_patterns(patterns: tuple[str, ...], name: str, *, expected: bool) -> None:
    assert matches(patterns, name) is expected


@given(st.text(min_size=1, max_size=8), st.text(max_size=8))
def test_a_prefix_matches_what_begins_with_it(prefix: str, rest: str) -> None:
    assert matches((prefix + "*",), prefix + rest)
    assert matches((prefix,), prefix + rest) == (not rest or prefix[-1] == "*")


@pytest.mark.parametrize(
    ("source", "agent", "customer", "fault"),
    [
        ("gateway/eu", "team-a/x", "acme", None),
        ("billing", "team-a/x", "acme", "source"),
        ("gateway/eu", "team-b/x", "acme", "subject"),
        ("gateway/eu", "team-a/x", "acm", "data.customer"),
        ("billing", "team-b/x", "acm", "source"),
    ],
)
def test_a_key_speaks_for_what_its_entry_names(source: str, agent: str, customer: str, fault: str | None) -> None:
    entry = make_key(sources=("gateway/*",), agents=("team-a/*",), customers=("acme",)).entry
    assert entry.speaks_for(source, agent, customer) == fault


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_registry_is_named_by_its_bytes(tmp_path: Path) -> None:
    content = encode_registry([GATEWAY.entry])
    (tmp_path / "keys.json").write_bytes(content)
    registry = load_registry(tmp_path / "keys.json")
    assert registry.entries == {GATEWAY.key_id: GATEWAY.entry}
    assert registry.digest == parse_registry(content).digest
    assert registry.digest != parse_registry(content + b"\n").digest
    assert EMPTY_REGISTRY.entries == {}
    with pytest.raises(FileNotFoundError):
        load_registry(tmp_path / "none.json")
    (tmp_path / "faulty.json").write_bytes(b"[]")
    with pytest.raises(InvalidRegistry, match=r"faulty\.json: key registry: not a JSON object"):
        load_registry(tmp_path / "faulty.json")


def document(**change: Any) -> dict[str, Any]:
    entry = orjson.loads(encode_registry([GATEWAY.entry]))["keys"][0] | change
    return {"version": 1, "keys": [{name: value for name, value in entry.items() if value is not ...}]}


PUBLIC = b64encode(bytes(SigningKey(b"\1" * 32).verify_key)).decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        ({"version": 2, "keys": []}, "version"),
        ({"keys": []}, "version"),
        ({"version": 1, "keys": [], "x": 1}, "x"),
        (b'{"version":1,"keys":[],"keys":[]}', "twice"),
        ({"version": 1, "keys": document()["keys"] * 2}, "listed twice"),
        (document(sources=...), "keys.0.sources"),
        (document(agents=[]), "keys.0.agents"),
        (document(customers="*"), "keys.0.customers"),
        (document(customers=[""]), "keys.0.customers.0"),
        (document(producer=...), "keys.0.producer"),
        (document(algorithm="rsa"), "keys.0.algorithm"),
        (document(x=1), "keys.0.x"),
        (document(valid_from="2026-01-01"), "keys.0.valid_from"),
        (document(valid_until="2026-02-30T00:00:00.000Z"), "keys.0.valid_until"),
        (document(revoked_at="2026-01-01T00:00:00.000+01:00"), "keys.0.revoked_at"),
        (document(public_key=...), "not base64 of 32 bytes"),
        (document(public_key="!"), "not base64 of 32 bytes"),
        (document(public_key="\u00e9" * 44), "not base64 of 32 bytes"),
        (document(public_key=b64encode(b"\1" * 31).decode()), "not base64 of 32 bytes"),
        (document(public_key=PUBLIC), "not the SHA-256"),
        (document(key_id="gateway"), "not the SHA-256"),
        (document(secret_file="secret"), "no secret_file"),
        (document(algorithm="hmac-sha256", key_id="shared"), "needs secret_file and no public_key"),
        (document(algorithm="hmac-sha256", key_id="shared", public_key=...), "needs secret_file and no public_key"),
        (document(algorithm="hmac-sha256", key_id="shared", public_key=..., secret_file="none"), "cannot be read"),
        (document(algorithm="hmac-sha256", key_id="shared", public_key=..., secret_file="a\0b"), "not a file name"),
        (document(algorithm="hmac-sha256", key_id="shared", public_key=..., secret_file="."), "cannot be read"),
    ],
)
def test_a_faulty_registry_is_refused_and_the_fault_named(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRegistry, match=message):
        parse_registry(content if isinstance(content, bytes) else orjson.dumps(content), folder=tmp_path)


def test_the_id_of_a_key_is_the_digest_of_its_public_half() -> None:
    assert GATEWAY.key_id == key_id_of(bytes(GATEWAY.signing_key.verify_key))
