"""Checkpoints: the golden one, round trips, and all that a strict reader refuses."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_proofs import (
    EMPTY_ROOT,
    MAX_TREE_SIZE,
    Checkpoint,
    MalformedCheckpoint,
    MalformedNote,
    ProofError,
    Signer,
    UnverifiedNote,
    Verifier,
    WrongHashSize,
    WrongOrigin,
    open_checkpoint,
    root_of,
    sign_checkpoint,
    sign_note,
)
from tests.unit.proofs.vectors import EIGHT_ENTRIES, GOLDEN_CHECKPOINT, GOLDEN_NAME, GOLDEN_SEED, GOLDEN_VKEY

ROOT = root_of(EIGHT_ENTRIES)
ROOT_TEXT = base64.b64encode(ROOT).decode()
GOLDEN = Checkpoint(GOLDEN_NAME, 8, ROOT)
TEXT = GOLDEN.format()
SIGNER = Signer(GOLDEN_NAME, GOLDEN_SEED)
VERIFIER = Verifier.parse(GOLDEN_VKEY)


def test_golden_checkpoint() -> None:
    assert sign_checkpoint(GOLDEN, [SIGNER]) == GOLDEN_CHECKPOINT
    assert open_checkpoint(GOLDEN_CHECKPOINT, [VERIFIER]) == GOLDEN
    assert open_checkpoint(GOLDEN_CHECKPOINT, [VERIFIER], origin=GOLDEN_NAME) == GOLDEN


def test_no_bit_of_it_can_change() -> None:
    for index in range(len(GOLDEN_CHECKPOINT)):
        for bit in range(8):
            changed = bytes([GOLDEN_CHECKPOINT[index] ^ 1 << bit])
            with pytest.raises(ProofError):
                open_checkpoint(GOLDEN_CHECKPOINT[:index] + changed + GOLDEN_CHECKPOINT[index + 1 :], [VERIFIER])


def test_the_empty_tree() -> None:
    empty = Checkpoint("log.example", 0, EMPTY_ROOT)
    assert empty.format() == "log.example\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    assert Checkpoint.parse(empty.format()) == empty
    with pytest.raises(MalformedCheckpoint, match="size 0 with another root"):
        Checkpoint("log.example", 0, ROOT)
    with pytest.raises(MalformedCheckpoint, match="size 0 with another root"):
        Checkpoint.parse(f"log.example\n0\n{ROOT_TEXT}\n")


MALFORMED = {
    "nothing": ("", None),
    "origin only": ("o\n", None),
    "no root": ("o\n8\n", None),
    "no last newline": (TEXT[:-1], None),
    "an empty line at the end": (TEXT + "\n", 4),
    "an extension line": (TEXT + "extension\n", 4),
    "two extension lines": (TEXT + "one\ntwo\n", 4),
    "text after the last newline": (TEXT + "x", None),
    "an empty line first": ("\n" + TEXT, 4),
    "empty origin": (f"\n8\n{ROOT_TEXT}\n", 1),
    "control character in the origin": (f"a\tb\n8\n{ROOT_TEXT}\n", 1),
    "carriage returns": (TEXT.replace("\n", "\r\n"), 1),
    "carriage return after the size": (f"o\n8\r\n{ROOT_TEXT}\n", 2),
    "carriage return after the root": (f"o\n8\n{ROOT_TEXT}\r\n", 3),
    "leading zero": (f"o\n08\n{ROOT_TEXT}\n", 2),
    "two zeros": (f"o\n00\n{base64.b64encode(EMPTY_ROOT).decode()}\n", 2),
    "plus sign": (f"o\n+8\n{ROOT_TEXT}\n", 2),
    "negative size": (f"o\n-8\n{ROOT_TEXT}\n", 2),
    "space before the size": (f"o\n 8\n{ROOT_TEXT}\n", 2),
    "space after the size": (f"o\n8 \n{ROOT_TEXT}\n", 2),
    "underscore in the size": (f"o\n1_0\n{ROOT_TEXT}\n", 2),
    "hexadecimal size": (f"o\n0x8\n{ROOT_TEXT}\n", 2),
    "digits of another script": (f"o\n\u0668\n{ROOT_TEXT}\n", 2),
    "no size": (f"o\n\n{ROOT_TEXT}\n", 2),
    "size above the largest": (f"o\n{MAX_TREE_SIZE + 1}\n{ROOT_TEXT}\n", 2),
    "size of a thousand digits": (f"o\n{'9' * 1_000}\n{ROOT_TEXT}\n", 2),
    "root without padding": (f"o\n8\n{ROOT_TEXT[:-1]}\n", 3),
    "too much padding": (f"o\n8\n{ROOT_TEXT}=\n", 3),
    "space after the root": (f"o\n8\n{ROOT_TEXT} \n", 3),
    "left-over bits in the root": (f"o\n8\n{ROOT_TEXT[:-2]}h=\n", 3),
    "URL base64": (f"o\n8\n{ROOT_TEXT.replace('+', '-')}\n", 3),
    "no root on its line": ("o\n8\n\n", 3),
    "root of 31 bytes": (f"o\n8\n{base64.b64encode(ROOT[:31]).decode()}\n", 3),
    "root of 33 bytes": (f"o\n8\n{base64.b64encode(ROOT + b'x').decode()}\n", 3),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_checkpoints_are_refused_with_their_line(case: str) -> None:
    text, line = MALFORMED[case]
    with pytest.raises(MalformedCheckpoint) as refused:
        Checkpoint.parse(text)
    assert refused.value.line == line, str(refused.value)


def test_a_validly_signed_note_that_is_no_checkpoint_is_refused() -> None:
    for text in ("hello\n", TEXT + "extension\n", f"o\n08\n{ROOT_TEXT}\n"):
        with pytest.raises(MalformedCheckpoint):
            open_checkpoint(sign_note(text, [SIGNER]), [VERIFIER])


def test_values_that_no_checkpoint_can_hold_are_refused() -> None:
    for origin, size in (("", 8), ("a\nb", 8), ("a\r", 8), ("o", -1), ("o", MAX_TREE_SIZE + 1)):
        with pytest.raises(MalformedCheckpoint):
            Checkpoint(origin, size, ROOT)
    with pytest.raises(WrongHashSize, match="checkpoint root is 31 bytes"):
        Checkpoint("o", 8, ROOT[:31])


def test_the_origin_asked_for_must_be_the_one_signed() -> None:
    """One key may sign for several logs, so the signature alone does not say which log it is."""
    other = sign_checkpoint(Checkpoint("meter.example/p1", 8, ROOT), [SIGNER])
    assert open_checkpoint(other, [VERIFIER]).origin == "meter.example/p1"
    with pytest.raises(WrongOrigin) as refused:
        open_checkpoint(other, [VERIFIER], origin=GOLDEN_NAME)
    assert (refused.value.expected, refused.value.found) == (GOLDEN_NAME, "meter.example/p1")


def test_unsigned_and_otherwise_signed_checkpoints_are_refused() -> None:
    with pytest.raises(MalformedNote):
        open_checkpoint(TEXT.encode(), [VERIFIER])
    with pytest.raises(UnverifiedNote):
        open_checkpoint(sign_checkpoint(GOLDEN, [Signer(GOLDEN_NAME, bytes(32))]), [VERIFIER])
    with pytest.raises(MalformedNote):
        sign_checkpoint(GOLDEN, [])


@given(
    origin=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1),
    size=st.integers(1, MAX_TREE_SIZE),
    root=st.binary(min_size=32, max_size=32),
)
def test_every_checkpoint_round_trips(origin: str, size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin, size, root)
    assert Checkpoint.parse(checkpoint.format()) == checkpoint
    assert open_checkpoint(sign_checkpoint(checkpoint, [SIGNER]), [VERIFIER], origin=origin) == checkpoint


@given(st.text(max_size=20) | st.builds("{}\n{}\n{}\n".format, st.text(), st.text(max_size=3), st.just(ROOT_TEXT)))
def test_whatever_is_read_is_written_back_the_same(text: str) -> None:
    try:
        checkpoint = Checkpoint.parse(text)
    except MalformedCheckpoint:
        return
    assert checkpoint.format() == text
