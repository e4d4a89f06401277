"""Entry bundles: what is written is read back, and nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_proofs import MAX_ENTRY_BYTES, MalformedBundle, OutOfRange, decode_bundle, encode_bundle

ENTRIES = st.lists(st.binary(max_size=40), min_size=1, max_size=256)


@given(ENTRIES)
def test_entries_are_read_back(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries), len(entries)) == entries


def test_the_form_is_length_and_bytes() -> None:
    assert encode_bundle([b"", b"a", b"bc"]) == b"\0\0\0\1a\0\2bc"
    assert len(encode_bundle([bytes(32)] * 256)) == 256 * 34


def test_the_longest_entry_fits_and_a_longer_one_is_refused() -> None:
    longest = bytes(MAX_ENTRY_BYTES)
    assert decode_bundle(encode_bundle([longest]), 1) == [longest]
    with pytest.raises(MalformedBundle, match="entry 1"):
        encode_bundle([b"", longest + b"\0"])


@pytest.mark.parametrize("width", [-1, 0, 257])
def test_impossible_widths_are_refused(width: int) -> None:
    with pytest.raises(OutOfRange):
        decode_bundle(b"", width)
    with pytest.raises(OutOfRange):
        encode_bundle([b""] * width) if width > 0 else encode_bundle([])


@given(ENTRIES, st.data())
def test_a_byte_more_or_less_and_another_width_are_refused(entries: list[bytes], data: st.DataObject) -> None:
    content = encode_bundle(entries)
    wrong = [content[: data.draw(st.integers(0, len(content) - 1))], content + data.draw(st.binary(min_size=1))]
    for one in wrong:
        with pytest.raises(MalformedBundle):
            decode_bundle(one, len(entries))
    for width in {len(entries) - 1, len(entries) + 1} - {0, 257}:
        with pytest.raises(MalformedBundle):
            decode_bundle(content, width)


@given(st.binary(max_size=64), st.integers(1, 8))
def test_what_the_parser_accepts_is_what_it_writes(content: bytes, width: int) -> None:
    try:
        entries = decode_bundle(content, width)
    except MalformedBundle:
        return
    assert encode_bundle(entries) == content
