"""Both ways to hash trees do the same, and what RFC 6962 says."""

import hashlib
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_proofs import python_tree_hashing, tree_hashing
from tests.native_part import native_part
from tests.unit.proofs.definition import root, split


def native() -> ModuleType:
    processor = Path("/proc/cpuinfo")
    has_sha = processor.exists() and "sha_ni" in processor.read_text(encoding="utf-8").split()
    return native_part("meterproof_proofs._tree_hashing", known_processor=has_sha)


@pytest.fixture(params=["python", "native"])
def hashing(request: pytest.FixtureRequest) -> ModuleType:
    return python_tree_hashing if request.param == "python" else native()


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def subtrees(entries: Sequence[bytes]) -> list[bytes]:
    """The roots of the largest complete subtrees, by the definition."""
    if not entries:
        return []
    if len(entries).bit_count() == 1:
        return [root(entries)]
    k = split(len(entries))
    return [root(entries[:k]), *subtrees(entries[k:])]


def test_what_is_used_is_native_where_it_can_be() -> None:
    assert tree_hashing.digests is native().digests


def test_contents_of_every_length_around_the_block_size(hashing: ModuleType) -> None:
    drawn = random.Random(1)
    contents = [drawn.randbytes(size) for size in range(260)]
    assert hashing.digests(contents) == [hashlib.sha256(content).digest() for content in contents]
    assert hashing.leaf_hashes(contents) == [leaf(content) for content in contents]


def test_a_content_of_many_blocks(hashing: ModuleType) -> None:
    content = random.Random(2).randbytes(1 << 20)
    assert hashing.digests([content, content[1:]]) == [hashlib.sha256(one).digest() for one in (content, content[1:])]
    assert hashing.leaf_hashes([content]) == [leaf(content)]


@pytest.mark.parametrize("lines", [[], [b""], [b"a"], [b"", b"", b"a"], [b"a" * size for size in range(260)]])
def test_a_text_and_the_tree_over_its_lines(hashing: ModuleType, lines: list[bytes]) -> None:
    text = b"head\nhead\n" + b"".join([line + b"\n" for line in lines])
    entries = [hashlib.sha256(line).digest() for line in lines]
    expected = (b"".join(entries), b"".join(map(leaf, entries)), root(entries))
    assert hashing.text_tree(text, 10) == (hashlib.sha256(text).digest(), *expected)
    unended = text + b"no line"
    assert hashing.text_tree(unended, 10) == (hashlib.sha256(unended).digest(), *expected)
    assert hashing.text_tree(text, len(text)) == (hashlib.sha256(text).digest(), b"", b"", root([]))
    for start in (-1, len(text) + 1):
        with pytest.raises(ValueError, match="no line begins at"):
            hashing.text_tree(text, start)


@pytest.mark.parametrize("count", range(1, 70))
def test_the_root_over_any_number_of_lines(hashing: ModuleType, count: int) -> None:
    lines = [b"%d\n" % number for number in range(count)]
    assert hashing.text_tree(b"".join(lines), 0)[3] == root([hashlib.sha256(line[:-1]).digest() for line in lines])


def test_pairs_leave_an_unpaired_last_node_out(hashing: ModuleType) -> None:
    nodes = [bytes([number]) * 32 for number in range(5)]
    assert hashing.pair_hashes(nodes) == [node(nodes[0], nodes[1]), node(nodes[2], nodes[3])]
    assert hashing.pair_hashes(nodes[:1]) == []


@pytest.mark.parametrize("before", [*range(18), 31, 63, 64, 100])
def test_a_tree_that_grows_is_the_definitions(hashing: ModuleType, before: int) -> None:
    entries = [number.to_bytes(2, "big") for number in range(before + 40)]
    kept = subtrees(entries[:before])
    for count in (0, 1, 2, 7, 8, 9, 15, 40):
        extended = hashing.extended(before, kept, hashing.leaf_hashes(entries[before : before + count]))
        assert extended == subtrees(entries[: before + count])
        row = b"".join(hashing.leaf_hashes(entries[before : before + count]))
        assert hashing.extended(before, kept, row) == extended
        assert hashing.joined(extended) == root(entries[: before + count])


@given(
    size=st.integers(0, 2**63 - 200),
    count=st.integers(0, 130),
    seed=st.integers(0, 2**32),
)
def test_both_ways_agree_on_trees_of_any_size(size: int, count: int, seed: int) -> None:
    drawn = random.Random(seed)
    kept = [drawn.randbytes(32) for _ in range(size.bit_count())]
    leaves = [drawn.randbytes(32) for _ in range(count)]
    extended = python_tree_hashing.extended(size, kept, leaves)
    assert len(extended) == (size + count).bit_count()
    assert native().extended(size, kept, leaves) == extended
    assert native().joined(extended) == python_tree_hashing.joined(extended)


def test_the_native_functions_refuse_what_is_no_hash() -> None:
    hashing, one = native(), bytes(32)
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        hashing.pair_hashes([one, one[1:]])
    with pytest.raises(ValueError, match="32 bytes, not 33"):
        hashing.extended(0, [], [one, one + b"\0"])
    with pytest.raises(ValueError, match="65 bytes are no row of hashes"):
        hashing.extended(0, [], one + one + b"\0")
    with pytest.raises(ValueError, match="32 bytes, not 0"):
        hashing.extended(1, [b""], [one])
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        hashing.joined([one[1:], one])
    with pytest.raises(ValueError, match="a tree of 3 leaves has not 1 subtrees"):
        hashing.extended(3, [one], [one])
    with pytest.raises(ValueError, match="no tree is so large"):
        hashing.extended(2**63 - 1, [one] * 63, [one])
    for size in (-1, 2**64):
        with pytest.raises(OverflowError):
            hashing.extended(size, [], [])


@pytest.mark.parametrize("name", ["digests", "leaf_hashes", "pair_hashes", "joined"])
def test_the_native_functions_refuse_what_is_no_bytes(name: str) -> None:
    function = getattr(native(), name)
    for wrong in (None, 5, ["text", "text"], [None, None], [bytearray(32), bytearray(32)]):
        with pytest.raises(TypeError):
            function(wrong)


def test_the_native_text_tree_refuses_what_is_no_text() -> None:
    for wrong in ((), (b"a",), (b"a", 0, 0), ("a", 0), (bytearray(b"a"), 0), (b"a", "0")):
        with pytest.raises(TypeError):
            native().text_tree(*wrong)


def test_the_native_functions_let_go_of_what_they_took() -> None:
    hashing = native()
    contents = [random.Random(3).randbytes(32) for _ in range(4)]
    before = [sys.getrefcount(content) for content in contents]
    for _ in range(100):
        hashing.digests(contents)
        hashing.leaf_hashes(contents)
        hashing.pair_hashes(contents)
        hashing.joined(hashing.extended(3, contents[:2], contents))
        hashing.extended(3, contents[:2], contents[3])
        hashing.text_tree(contents[0], 0)
        for name in ("digests", "leaf_hashes", "pair_hashes", "joined"):
            with pytest.raises(TypeError):
                getattr(hashing, name)([*contents, None, None])
        with pytest.raises(TypeError):
            hashing.extended(3, contents[:2], [*contents, None])
        with pytest.raises(TypeError):
            hashing.extended(3, [contents[0], None], contents)
    assert [sys.getrefcount(content) for content in contents] == before
