"""Signed notes: published examples, round trips, and all that a strict reader refuses."""

import base64
import copy
import hashlib
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_proofs import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    MalformedKey,
    MalformedNote,
    NoteSignature,
    ProofError,
    SignedNote,
    Signer,
    UnverifiedNote,
    Verifier,
    WitnessVerifier,
    open_note,
    sign_note,
)
from tests.unit.proofs.vectors import GOLDEN_NAME, GOLDEN_SEED, GOLDEN_VKEY, NOTE, NOTE_VKEY, TESSERA_VKEY

TEXT = "first\n\nthird\n"
SIGNER = Signer("log.example/a", bytes(32))
OTHER = Signer("log.example/b", bytes([1]) * 32)
SIGNED = sign_note(TEXT, [SIGNER])
LINE = SIGNED.split(b"\n")[-2].decode()


def typed(key: bytes) -> str:
    """Return the base64 of an Ed25519 key or seed behind its type byte."""
    return base64.b64encode(b"\x01" + key).decode()


def test_the_example_of_the_specification_verifies() -> None:
    note = open_note(NOTE, [Verifier.parse(NOTE_VKEY)])
    assert note.text == "This is an example message.\n"
    assert [one.key_name for one in note.verified] == ["example.com/foo"]
    assert note.unverified == ()


def test_no_bit_of_the_example_can_change() -> None:
    verifier = Verifier.parse(NOTE_VKEY)
    for index in range(len(NOTE)):
        for bit in range(8):
            forged = NOTE[:index] + bytes([NOTE[index] ^ 1 << bit]) + NOTE[index + 1 :]
            with pytest.raises((MalformedNote, UnverifiedNote)):
                open_note(forged, [verifier])


@pytest.mark.parametrize("vkey", [NOTE_VKEY, TESSERA_VKEY, GOLDEN_VKEY])
def test_verifier_keys_round_trip(vkey: str) -> None:
    assert Verifier.parse(vkey).vkey == str(Verifier.parse(vkey)) == vkey


def test_base64_with_a_plus_is_not_split() -> None:
    assert TESSERA_VKEY.count("+") > 2
    assert Verifier.parse(TESSERA_VKEY).name == "example.com/log/testdata"
    texts = (Signer("k", bytes([byte]) * 32).private_key_text() for byte in range(256))
    private = next(text for text in texts if text.count("+") > 4)
    assert Signer.parse(private).private_key_text() == private


def test_golden_key() -> None:
    signer = Signer(GOLDEN_NAME, GOLDEN_SEED)
    assert (signer.name, signer.verifier.vkey) == (GOLDEN_NAME, GOLDEN_VKEY)
    expected = f"PRIVATE+KEY+{GOLDEN_NAME}+2070874b+{typed(GOLDEN_SEED)}"
    assert signer.private_key_text() == expected
    assert Signer.parse(expected).verifier == signer.verifier


def test_a_new_key_takes_its_randomness_from_where_it_is_told() -> None:
    assert Signer.generate("k", bytes).verifier == Signer("k", bytes(32)).verifier
    with pytest.raises(MalformedKey):
        Signer.generate("k", lambda count: bytes(count - 1))


def test_a_signer_never_shows_its_secret_unasked() -> None:
    seed = hashlib.sha256(b"secret").digest()
    signer = Signer("k", seed)
    for shown in (repr(signer), str(signer), f"{signer}"):
        assert typed(seed) not in shown
        assert seed.hex() not in shown
        assert signer.verifier.vkey in shown
    for carry in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="private_key_text"):
            carry(signer)


@pytest.mark.parametrize(
    ("vkey", "problem"),
    [
        ("", "name is empty"),
        ("name", "8 lower-case hex"),
        (NOTE_VKEY.replace("530d903a", "530D903A"), "8 lower-case hex"),
        (NOTE_VKEY.replace("530d903a", "530d903"), "8 lower-case hex"),
        (NOTE_VKEY.replace("530d903a", "530d903b"), "does not belong"),
        (NOTE_VKEY.replace("foo", "bar"), "does not belong"),
        (NOTE_VKEY.replace("com/foo", "com /foo"), "holds a space"),
        (NOTE_VKEY + "\n", "base64"),
        (NOTE_VKEY + "=", "base64"),
        (NOTE_VKEY[:-1], "base64"),
        (NOTE_VKEY[: NOTE_VKEY.rindex("+") + 1], "base64"),
        (NOTE_VKEY.replace("+Ae", "+Be"), "type 0x05 is not supported"),
        (f"k+00000000+{typed(bytes(31))}", "31 bytes long"),
        (f"k+00000000+{typed(bytes(33))}", "33 bytes long"),
    ],
)
def test_malformed_verifier_keys_are_refused(vkey: str, problem: str) -> None:
    with pytest.raises(MalformedKey, match=problem):
        Verifier.parse(vkey)


def test_malformed_private_keys_are_refused_without_showing_them() -> None:
    good = SIGNER.private_key_text()
    secret = good.rpartition("+")[2]
    for bad in (good[1:], good.replace("log", "lag"), good + "A", good[:-1], SIGNER.verifier.vkey, "", good + "\n"):
        with pytest.raises(MalformedKey) as refused:
            Signer.parse(bad)
        assert secret not in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\u2003", "a\x00", "a\n", "\u3000", "a\x85", "\ud800"])
def test_impossible_key_names_are_refused(name: str) -> None:
    with pytest.raises(MalformedKey):
        Signer(name, bytes(32))
    with pytest.raises(MalformedKey):
        NoteSignature(name, bytes(4), b"x")


def test_a_note_is_its_text_an_empty_line_and_the_signatures() -> None:
    signed = sign_note(TEXT, [SIGNER, OTHER])
    assert signed.startswith(TEXT.encode() + b"\n\xe2\x80\x94 log.example/a ")
    parsed = SignedNote.parse(signed)
    assert parsed.text == TEXT
    assert [one.key_name for one in parsed.signatures] == ["log.example/a", "log.example/b"]
    assert parsed.format() == signed


def test_unknown_keys_are_ignored_and_known_ones_must_hold() -> None:
    signed = sign_note(TEXT, [SIGNER, OTHER])
    one = open_note(signed, [OTHER.verifier])
    assert [line.key_name for line in one.verified] == [OTHER.name]
    assert [line.key_name for line in one.unverified] == [SIGNER.name]
    both = open_note(signed, [OTHER.verifier, SIGNER.verifier, OTHER.verifier])
    assert [line.key_name for line in both.verified] == [SIGNER.name, OTHER.name]


def test_a_note_without_a_known_key_is_refused() -> None:
    for verifiers in ([], [OTHER.verifier]):
        with pytest.raises(UnverifiedNote, match="no signature by a known key") as refused:
            open_note(SIGNED, verifiers)
        assert refused.value.key_names == (SIGNER.name,)


def test_a_wrong_signature_by_one_known_key_refuses_the_whole_note() -> None:
    wrong = OTHER.sign("another text\n")
    signed = SignedNote(TEXT, (SIGNER.sign(TEXT), wrong)).format()
    assert open_note(signed, [SIGNER.verifier]).text == TEXT
    with pytest.raises(UnverifiedNote, match="known key is wrong"):
        open_note(signed, [SIGNER.verifier, OTHER.verifier])


def test_a_signature_of_wrong_length_is_wrong() -> None:
    good = SIGNER.sign(TEXT)
    for signature in (good.signature[:-1], good.signature + b"\x00", b"x"):
        signed = SignedNote(TEXT, (NoteSignature(good.key_name, good.key_id, signature),)).format()
        with pytest.raises(UnverifiedNote, match="known key is wrong"):
            open_note(signed, [SIGNER.verifier])


def test_a_key_that_shares_only_name_or_only_id_is_unknown() -> None:
    good = SIGNER.sign(TEXT)
    same_name = NoteSignature(good.key_name, bytes(4), b"x" * 64)
    same_id = NoteSignature("elsewhere", good.key_id, b"x" * 64)
    signed = SignedNote(TEXT, (same_name, same_id, good)).format()
    note = open_note(signed, [SIGNER.verifier])
    assert (note.verified, note.unverified) == ((good,), (same_name, same_id))


def test_two_keys_of_one_name_and_id_are_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Verifier, "key_id", bytes(4))
    keys = [Verifier("k", Signer("k", bytes([byte]) * 32).verifier.public_key) for byte in (1, 2)]
    with pytest.raises(MalformedKey, match="two different keys"):
        open_note(SIGNED, keys)


def test_signing_is_deterministic_and_needs_each_signer_once() -> None:
    assert sign_note(TEXT, [SIGNER]) == SIGNED
    for signers in ([], [SIGNER, SIGNER]):
        with pytest.raises(MalformedNote):
            sign_note(TEXT, signers)


@pytest.mark.parametrize("text", ["", "no newline", "a\r\n", "tab\t\n", "\x00\n", "\ud800\n"])
def test_texts_that_cannot_stand_in_a_note_are_refused(text: str) -> None:
    with pytest.raises(MalformedNote):
        SIGNER.sign(text)
    with pytest.raises(MalformedNote):
        SignedNote(text, (SIGNER.sign(TEXT),))


def test_texts_may_hold_what_looks_like_signatures() -> None:
    text = SIGNED.decode()
    note = open_note(sign_note(text, [OTHER]), [OTHER.verifier, SIGNER.verifier])
    assert note.text == text
    assert [one.key_name for one in note.verified] == [OTHER.name]


MALFORMED = {
    "nothing": (b"", 1),
    "only a newline": (b"\n", None),
    "no last newline": (SIGNED[:-1], 5),
    "trailing newline": (SIGNED + b"\n", None),
    "trailing bytes": (SIGNED + b"x", 6),
    "trailing text": (SIGNED + b"x\n", 6),
    "trailing zero byte": (SIGNED + b"\x00", 6),
    "no empty line": (SIGNED.replace(b"\n\n", b"\n"), None),
    "no text": (SIGNED[len(TEXT) :], None),
    "no signature": (b"text\n\n", None),
    "carriage returns": (SIGNED.replace(b"\n", b"\r\n"), 1),
    "one carriage return": (SIGNED[:-1] + b"\r\n", 5),
    "control character in the text": (b"\x07" + SIGNED, 1),
    "tab in a signature line": (SIGNED.replace(b"\x94 ", b"\x94\t"), 5),
    "not UTF-8": (b"a\n\xff" + SIGNED, 2),
    "overlong UTF-8": (b"\xc0\x80" + SIGNED, 1),
    "surrogate in UTF-8": (b"\xed\xa0\x80" + SIGNED, 1),
    "hyphen for the dash": (SIGNED.replace("\u2014".encode(), b"-"), 5),
    "en dash for the dash": (SIGNED.replace("\u2014".encode(), "\u2013".encode()), 5),
    "no space after the dash": (SIGNED.replace("\u2014 ".encode(), "\u2014".encode()), 5),
    "two spaces after the dash": (SIGNED.replace("\u2014 ".encode(), "\u2014  ".encode()), 5),
    "two spaces before the base64": (SIGNED.replace(b"/a ", b"/a  "), 5),
    "space at the end": (SIGNED[:-1] + b" \n", 5),
    "space before the line": (SIGNED.replace("\u2014".encode(), " \u2014".encode()), 5),
    "no-break space in the name": (SIGNED.replace(b"/a ", "/\u00a0a ".encode()), 5),
    "plus in the name": (SIGNED.replace(b"/a ", b"/a+ "), 5),
    "no base64": (SIGNED[: SIGNED.rindex(b" ")] + b"\n", 5),
    "base64 without padding": (SIGNED.replace(b"=\n", b"\n"), 5),
    "too much padding": (SIGNED.replace(b"=\n", b"==\n"), 5),
    "URL base64": (TEXT.encode() + b"\n\xe2\x80\x94 k __________8=\n", 5),
    "a newline in the base64": (SIGNED[:-10] + b"\n" + SIGNED[-10:], 5),
    "left-over bits in the base64": (TEXT.encode() + b"\n\xe2\x80\x94 k AAAAAAB=\n", 5),
    "a key id and no signature": (TEXT.encode() + b"\n\xe2\x80\x94 k AAAAAA==\n", 5),
    "a short key id": (TEXT.encode() + b"\n\xe2\x80\x94 k AAAA\n", 5),
    "the same line twice": (SIGNED + LINE.encode() + b"\n", 6),
    "two lines by an unknown key": (SIGNED + "\u2014 k AAAAAAA=\n\u2014 k AAAAAAE=\n".encode(), 7),
    "too long": (b"x" * (MAX_NOTE_BYTES - len(SIGNED)) + b"\n" + SIGNED, None),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_notes_are_refused_with_their_line(case: str) -> None:
    note, line = MALFORMED[case]
    assert note != SIGNED
    with pytest.raises(MalformedNote) as refused:
        open_note(note, [SIGNER.verifier])
    assert refused.value.line == line, str(refused.value)


def test_sixteen_signatures_are_read_and_too_many_are_refused() -> None:
    def note(count: int) -> bytes:
        return SIGNED + "".join(f"\u2014 k{number} AAAAAAA=\n" for number in range(count - 1)).encode()

    for count in (16, MAX_SIGNATURES):
        assert len(open_note(note(count), [SIGNER.verifier]).unverified) == count - 1
    with pytest.raises(MalformedNote, match=f"{MAX_SIGNATURES + 1} signature lines"):
        open_note(note(MAX_SIGNATURES + 1), [SIGNER.verifier])
    with pytest.raises(MalformedNote):
        SignedNote(TEXT, tuple(NoteSignature(f"k{number}", bytes(4), b"x") for number in range(MAX_SIGNATURES + 1)))


@given(st.binary(max_size=60) | st.text(alphabet="\u2014 \nab+=/A\r\t", max_size=60).map(str.encode))
def test_whatever_is_read_is_written_back_the_same(note: bytes) -> None:
    try:
        parsed = SignedNote.parse(note)
    except MalformedNote:
        return
    assert parsed.format() == note


@given(data=st.data())
def test_whatever_key_is_read_is_written_back_the_same(data: st.DataObject) -> None:
    given_key = data.draw(st.sampled_from([NOTE_VKEY, TESSERA_VKEY, GOLDEN_VKEY]))
    at = data.draw(st.integers(0, len(given_key)))
    more = data.draw(st.text(alphabet="+/=aA0 \n\t\u2003", max_size=2))
    changed = given_key[:at] + more + given_key[at + data.draw(st.integers(0, 2)) :]
    for kind in (Verifier, WitnessVerifier):
        try:
            key = kind.parse(changed)
        except MalformedKey:
            continue
        assert key.vkey == changed


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"], exclude_characters="+"), min_size=1)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], include_characters="\n")).map(
    lambda t: t + "\n"
)


@given(text=TEXTS, names=st.lists(NAMES, min_size=1, max_size=3, unique=True))
def test_every_note_round_trips(text: str, names: list[str]) -> None:
    signers = [Signer(name, hashlib.sha256(name.encode()).digest()) for name in names]
    signed = sign_note(text, signers)
    assert SignedNote.parse(signed).format() == signed
    note = open_note(signed, [signer.verifier for signer in signers])
    assert (note.text, [one.key_name for one in note.verified]) == (text, names)


@given(st.data())
def test_no_change_of_a_note_goes_unnoticed(data: st.DataObject) -> None:
    signed = sign_note(TEXT, [SIGNER, OTHER])
    start = data.draw(st.integers(0, len(signed)))
    end = data.draw(st.integers(start, min(len(signed), start + 4)))
    forged = signed[:start] + data.draw(st.binary(max_size=4)) + signed[end:]
    if forged == signed:
        return
    try:
        note = open_note(forged, [SIGNER.verifier])
    except ProofError:
        return
    # What still opens differs in the unknown key's line only.
    assert note.text == TEXT
    assert note.verified == (SIGNER.sign(TEXT),)


def test_errors_name_the_problem_for_people() -> None:
    with pytest.raises(MalformedNote, match=re.escape("malformed note in line 1: control character U+000D")):
        SignedNote.parse(SIGNED.replace(b"\n", b"\r\n"))
