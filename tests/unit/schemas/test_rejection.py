"""Refusals keep what was refused, as far as somebody vouches for it."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_schemas.limits import REJECTED_PAYLOAD_BYTES_MAX
from meterproof_schemas.reasons import Reason
from meterproof_schemas.rejection import Rejection, decode_rejection, encode_rejection, make_rejection, rejection_key


def refuse(payload: bytes, *, line: int | None = 3, producer: str | None = "gateway", detail: str = "why") -> Rejection:
    return make_rejection(
        Reason.MALFORMED_EVENT, detail, payload, partition=1, offset=2, line=line, append_ms=4, producer=producer
    )


@given(st.binary(max_size=100), st.sampled_from(Reason), st.one_of(st.none(), st.integers(0, 999)))
def test_any_payload_comes_back(payload: bytes, reason: Reason, line: int | None) -> None:
    rejection = make_rejection(reason, "", payload, partition=1, offset=2, line=line, append_ms=4, producer="p")
    assert decode_rejection(encode_rejection(rejection)) == rejection
    assert rejection.header.digest == hashlib.sha256(payload).hexdigest()
    assert rejection.header.payload_bytes == len(payload)


@pytest.mark.parametrize("producer", ["gateway", None])
def test_a_payload_nobody_vouches_for_is_cut(producer: str | None) -> None:
    payload = b"\n" * (REJECTED_PAYLOAD_BYTES_MAX + 1)
    rejection = decode_rejection(encode_rejection(refuse(payload, producer=producer)))
    assert rejection.payload == (payload if producer else payload[:-1])
    assert rejection.header.payload_bytes == len(payload)
    assert rejection.header.digest == hashlib.sha256(payload).hexdigest()


def test_keys_name_partition_offset_and_line() -> None:
    assert rejection_key(refuse(b"").header) == b"1/2/3"
    assert rejection_key(refuse(b"", line=None).header) == b"1/2/-"
    assert rejection_key(refuse(b"", line=0).header) == b"1/2/0"


def test_detail_is_bounded() -> None:
    assert len(refuse(b"", detail="x" * 10_000).header.detail) == 500
