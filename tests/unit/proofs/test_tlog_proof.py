"""Offline proofs: one spelling, and nothing is believed that the log's key and the tree do not vouch for."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_proofs import (
    MAX_PROOF_HASHES,
    BadProof,
    Checkpoint,
    MalformedTlogProof,
    Signer,
    TlogProof,
    TooFewWitnesses,
    UnverifiedNote,
    Verifier,
    WitnessSigner,
    WrongHashSize,
    WrongOrigin,
    add_signatures,
    inclusion_proof,
    leaf_hash,
    leaf_hashes,
    open_checkpoint,
    sign_checkpoint,
)
from tests.unit.proofs.vectors import (
    EIGHT_ENTRIES,
    GOLDEN_CHECKPOINT,
    GOLDEN_NAME,
    GOLDEN_VKEY,
    WITNESS_LINE,
    WITNESS_NAME,
    WITNESS_SEED,
)

VERIFIER = Verifier.parse(GOLDEN_VKEY)
LEAVES = leaf_hashes(EIGHT_ENTRIES)
WITNESS = WitnessSigner(WITNESS_NAME, WITNESS_SEED)
COSIGNED = GOLDEN_CHECKPOINT + WITNESS_LINE
PROOF = TlogProof(5, tuple(inclusion_proof(LEAVES, 5, 8)), COSIGNED)
TEXT = PROOF.format()
LINES = TEXT.split(b"\n")


def test_the_form_is_the_specifications() -> None:
    assert LINES[0] == b"c2sp.org/tlog-proof@v1"
    assert LINES[1] == b"index 5"
    assert [base64.b64decode(line) for line in LINES[2:5]] == list(PROOF.hashes)
    assert LINES[5] == b""
    assert TEXT.endswith(b"\n\n" + COSIGNED)
    with_extra = TlogProof(5, PROOF.hashes, COSIGNED, b"age")
    assert with_extra.format().split(b"\n")[1] == b"extra YWdl"
    assert TlogProof.parse(with_extra.format()) == with_extra


@pytest.mark.parametrize("index", range(8))
def test_every_entry_is_proved_and_no_other_one(index: int) -> None:
    proof = TlogProof.parse(TlogProof(index, tuple(inclusion_proof(LEAVES, index, 8)), GOLDEN_CHECKPOINT).format())
    assert proof.verify(LEAVES[index], [VERIFIER], origin=GOLDEN_NAME) == open_checkpoint(GOLDEN_CHECKPOINT, [VERIFIER])
    for other in range(8):
        if other != index:
            with pytest.raises(BadProof):
                proof.verify(LEAVES[other], [VERIFIER], origin=GOLDEN_NAME)


@given(extra=st.none() | st.binary(min_size=1, max_size=50), index=st.integers(0, 7))
def test_what_is_written_is_read_back(extra: bytes | None, index: int) -> None:
    proof = TlogProof(index, tuple(inclusion_proof(LEAVES, index, 8)), COSIGNED, extra)
    assert TlogProof.parse(proof.format()) == proof


def test_witnesses_are_counted_when_they_are_required() -> None:
    known = [WITNESS.verifier, WitnessSigner("w2", bytes(32)).verifier]
    leaf = LEAVES[5]
    PROOF.verify(leaf, [VERIFIER], origin=GOLDEN_NAME, witnesses=known, witnesses_required=1)
    with pytest.raises(TooFewWitnesses) as caught:
        PROOF.verify(leaf, [VERIFIER], origin=GOLDEN_NAME, witnesses=known, witnesses_required=2)
    assert caught.value.found == (WITNESS_NAME,)
    with pytest.raises(TooFewWitnesses):
        PROOF.verify(leaf, [VERIFIER], origin=GOLDEN_NAME, witnesses_required=1)


def test_another_log_another_key_and_another_tree_are_refused() -> None:
    with pytest.raises(WrongOrigin):
        PROOF.verify(LEAVES[5], [VERIFIER], origin="meter.example/p1")
    with pytest.raises(UnverifiedNote):
        PROOF.verify(LEAVES[5], [Signer(GOLDEN_NAME, bytes(32)).verifier], origin=GOLDEN_NAME)
    with pytest.raises(WrongHashSize):
        PROOF.verify(b"", [VERIFIER], origin=GOLDEN_NAME)
    for wrong in (
        TlogProof(4, PROOF.hashes, COSIGNED),
        TlogProof(8, PROOF.hashes, COSIGNED),
        TlogProof(5, PROOF.hashes[:-1], COSIGNED),
        TlogProof(5, (*PROOF.hashes, LEAVES[0]), COSIGNED),
        TlogProof(5, PROOF.hashes[::-1], COSIGNED),
    ):
        with pytest.raises(BadProof):
            wrong.verify(LEAVES[5], [VERIFIER], origin=GOLDEN_NAME)


def test_no_changed_bit_is_believed() -> None:
    """Every bit of the file but those of the unauthenticated signature lines of unknown keys."""
    for at in range(len(TEXT)):
        for bit in (0, 5):
            wrong = TEXT[:at] + bytes([TEXT[at] ^ 1 << bit]) + TEXT[at + 1 :]
            with pytest.raises((MalformedTlogProof, BadProof, UnverifiedNote, WrongOrigin, TooFewWitnesses)):
                TlogProof.parse(wrong).verify(
                    LEAVES[5], [VERIFIER], origin=GOLDEN_NAME, witnesses=[WITNESS.verifier], witnesses_required=1
                )


def changed(line: int, *into: bytes) -> bytes:
    """The proof with one line replaced by others."""
    return b"\n".join([*LINES[:line], *into, *LINES[line + 1 :]])


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (b"", None),
        (TEXT[: TEXT.index(b"\n\n")], None),
        (TEXT[: TEXT.index(b"\n\n") + 2], None),
        (changed(0, b"c2sp.org/tlog-proof@v2"), 1),
        (changed(0, b"c2sp.org/tlog-proof@v1 "), 1),
        (b"\xef\xbb\xbf" + TEXT, 1),
        (changed(1), 2),
        (changed(1, b"index 05"), 2),
        (changed(1, b"index +5"), 2),
        (changed(1, b"index -5"), 2),
        (changed(1, b"index  5"), 2),
        (changed(1, b"index 5 "), 2),
        (changed(1, b"index 5\r"), 2),
        (changed(1, b"index "), 2),
        (changed(1, b"Index 5"), 2),
        (changed(1, b"index 9223372036854775807"), None),
        (changed(1, b"index 99999999999999999999"), 2),
        (changed(1, "index \u0665".encode()), 2),
        (changed(1, b"extra YWdl", b"extra YWdl", b"index 5"), 3),
        (changed(1, b"index 5", b"extra YWdl"), 3),
        (changed(1, b"extra ", b"index 5"), 2),
        (changed(1, b"extra YWdm=", b"index 5"), 2),
        (changed(1, b"extra YWe=", b"index 5"), 2),
        (changed(1, b"extra YWdl"), 3),
        (changed(2, LINES[2][:-1]), 3),
        (changed(2, LINES[2] + b" "), 3),
        (changed(2, base64.b64encode(bytes(31))), 3),
        (changed(2, base64.b64encode(bytes(33))), 3),
        (changed(2, base64.urlsafe_b64encode(b"\xff" * 32)), 3),
        (changed(2, *[LINES[2]] * 70), 66),
        (changed(5, b"", b""), None),
        (TEXT + b"\n", None),
        (TEXT + b"x", None),
        (TEXT[:-1], None),
        (TEXT.replace(b"\n8\n", b"\n08\n"), None),
        (TEXT.replace(b"\n8\n", b"\n8\nextension\n"), None),
        (TEXT.replace(b"\n", b"\r\n"), None),
    ],
)
def test_other_spellings_are_refused(wrong: bytes, line: int | None) -> None:
    with pytest.raises(MalformedTlogProof) as caught:
        TlogProof.parse(wrong)
    if line is not None:
        assert caught.value.line == line


@given(st.data())
def test_what_the_parser_accepts_is_what_it_writes(data: st.DataObject) -> None:
    content = bytearray(TEXT)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"\n", b"0"])
        )
    try:
        parsed = TlogProof.parse(bytes(content))
    except MalformedTlogProof:
        return
    assert parsed.format() == bytes(content)


def test_impossible_proofs_cannot_be_made() -> None:
    one = leaf_hash(b"")
    for index, hashes, checkpoint, extra in (
        (-1, (), COSIGNED, None),
        (2**63 - 1, (), COSIGNED, None),
        (0, (one,) * (MAX_PROOF_HASHES + 1), COSIGNED, None),
        (0, (), COSIGNED, b""),
        (0, (), b"", None),
        (0, (), COSIGNED.replace(b"\n8\n", b"\n-8\n"), None),
    ):
        with pytest.raises(MalformedTlogProof):
            TlogProof(index, hashes, checkpoint, extra)
    with pytest.raises(WrongHashSize):
        TlogProof(0, (b"short",), COSIGNED)


def test_a_log_of_one_entry_has_a_proof_without_hashes() -> None:
    signer = Signer("one", bytes(32))
    note = sign_checkpoint(Checkpoint("one", 1, leaf_hash(b"only")), [signer])
    proof = TlogProof.parse(TlogProof(0, (), note).format())
    assert proof.verify(leaf_hash(b"only"), [signer.verifier], origin="one").size == 1
    assert add_signatures(note, []) == note
