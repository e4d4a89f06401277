"""Cosignatures: golden values, and no line that a known witness did not write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_proofs import (
    EMPTY_ROOT,
    MAX_COSIGNATURE_TIME_S,
    Checkpoint,
    Cosignature,
    MalformedKey,
    MalformedNote,
    NoteSignature,
    OutOfRange,
    SignedNote,
    Signer,
    UnverifiedNote,
    Verifier,
    WitnessSigner,
    WitnessVerifier,
    add_signatures,
    open_checkpoint,
    sign_checkpoint,
    verify_cosignatures,
)
from tests.unit.proofs.vectors import (
    GOLDEN_CHECKPOINT,
    GOLDEN_NAME,
    GOLDEN_SEED,
    GOLDEN_VKEY,
    WITNESS_LINE,
    WITNESS_NAME,
    WITNESS_SEED,
    WITNESS_TIME_S,
    WITNESS_VKEY,
)

WITNESS = WitnessSigner(WITNESS_NAME, WITNESS_SEED)
CHECKPOINT = open_checkpoint(GOLDEN_CHECKPOINT, [Verifier.parse(GOLDEN_VKEY)])
COSIGNED = GOLDEN_CHECKPOINT + WITNESS_LINE


def test_the_golden_cosignature_is_made_byte_for_byte() -> None:
    assert WITNESS.verifier.vkey == WITNESS_VKEY == str(WITNESS.verifier)
    assert WitnessVerifier.parse(WITNESS_VKEY) == WITNESS.verifier
    assert add_signatures(GOLDEN_CHECKPOINT, [WITNESS.cosign(CHECKPOINT, WITNESS_TIME_S)]) == COSIGNED


def test_the_golden_cosignature_verifies_beside_the_logs_own() -> None:
    assert verify_cosignatures(COSIGNED, [WITNESS.verifier]) == (Cosignature(WITNESS_NAME, WITNESS_TIME_S),)
    assert open_checkpoint(COSIGNED, [Verifier.parse(GOLDEN_VKEY)]) == CHECKPOINT


def test_a_checkpoint_without_known_witnesses_has_none() -> None:
    other = WitnessSigner("witness.example/w2", bytes(32))
    assert verify_cosignatures(GOLDEN_CHECKPOINT, [WITNESS.verifier]) == ()
    assert verify_cosignatures(COSIGNED, [other.verifier]) == verify_cosignatures(COSIGNED, []) == ()
    # The same key under another name has another key id, so its line is one by an unknown key.
    assert verify_cosignatures(COSIGNED, [WitnessVerifier("w3", WITNESS.verifier.public_key)]) == ()


@given(time_s=st.integers(0, MAX_COSIGNATURE_TIME_S), seed=st.binary(min_size=32, max_size=32))
def test_any_time_is_read_back(time_s: int, seed: bytes) -> None:
    witness = WitnessSigner("w", seed)
    note = add_signatures(GOLDEN_CHECKPOINT, [witness.cosign(CHECKPOINT, time_s)])
    assert verify_cosignatures(note, [witness.verifier]) == (Cosignature("w", time_s),)


@pytest.mark.parametrize("time_s", [-1, MAX_COSIGNATURE_TIME_S + 1])
def test_impossible_times_are_refused(time_s: int) -> None:
    with pytest.raises(OutOfRange):
        WITNESS.cosign(CHECKPOINT, time_s)


def test_every_changed_bit_of_a_cosignature_is_refused() -> None:
    line = WITNESS.cosign(CHECKPOINT, WITNESS_TIME_S)
    for bit in range(8 * len(line.signature)):
        wrong = bytearray(line.signature)
        wrong[bit // 8] ^= 1 << bit % 8
        note = add_signatures(GOLDEN_CHECKPOINT, [NoteSignature(line.key_name, line.key_id, bytes(wrong))])
        with pytest.raises(UnverifiedNote, match="known witness"):
            verify_cosignatures(note, [WITNESS.verifier])


@pytest.mark.parametrize("length", [1, 8, 64, 71, 73])
def test_a_payload_of_another_length_is_refused(length: int) -> None:
    line = WITNESS.cosign(CHECKPOINT, WITNESS_TIME_S)
    wrong = NoteSignature(line.key_name, line.key_id, (line.signature + b"\0")[:length])
    with pytest.raises(UnverifiedNote):
        verify_cosignatures(add_signatures(GOLDEN_CHECKPOINT, [wrong]), [WITNESS.verifier])


def test_a_cosignature_of_another_checkpoint_is_refused() -> None:
    other = Checkpoint(CHECKPOINT.origin, 0, EMPTY_ROOT)
    note = sign_checkpoint(other, [Signer(GOLDEN_NAME, GOLDEN_SEED)])
    with pytest.raises(UnverifiedNote):
        verify_cosignatures(note + WITNESS_LINE, [WITNESS.verifier])


def test_a_plain_signature_by_the_same_key_is_no_cosignature_and_the_reverse() -> None:
    plain = Signer(WITNESS_NAME, WITNESS_SEED)
    assert plain.verifier.key_id != WITNESS.verifier.key_id
    with pytest.raises(UnverifiedNote):
        open_checkpoint(COSIGNED, [plain.verifier])
    assert verify_cosignatures(sign_checkpoint(CHECKPOINT, [plain]), [WITNESS.verifier]) == ()


def test_one_key_is_one_witness() -> None:
    twin = WitnessVerifier("witness.example/w2", WITNESS.verifier.public_key)
    with pytest.raises(MalformedKey, match="one witness"):
        verify_cosignatures(COSIGNED, [WITNESS.verifier, twin])
    assert len(verify_cosignatures(COSIGNED, [WITNESS.verifier, WITNESS.verifier])) == 1
    with pytest.raises(MalformedNote):
        verify_cosignatures(COSIGNED + WITNESS_LINE, [WITNESS.verifier])
    with pytest.raises(MalformedNote):
        add_signatures(COSIGNED, [WITNESS.cosign(CHECKPOINT, 1)])


@pytest.mark.parametrize(
    "vkey",
    [
        GOLDEN_VKEY,
        WITNESS_VKEY[:-4],
        WITNESS_VKEY.replace("20324abe", "20324abf"),
        WITNESS_VKEY.replace("20324abe", "20324ABE"),
        WITNESS_VKEY + "\n",
        "+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X",
        "w",
        "",
    ],
)
def test_other_keys_are_refused(vkey: str) -> None:
    with pytest.raises(MalformedKey):
        WitnessVerifier.parse(vkey)


def test_a_bad_seed_is_refused_and_a_seed_is_never_shown() -> None:
    with pytest.raises(MalformedKey):
        WitnessSigner("w", bytes(31))
    with pytest.raises(MalformedKey):
        WitnessVerifier("w", bytes(31))
    assert WITNESS_SEED.hex() not in repr(WITNESS)
    assert SignedNote.parse(COSIGNED).signatures[1].signature[:8] == WITNESS_TIME_S.to_bytes(8, "big")
