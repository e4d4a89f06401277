"""Errors: one tree, facts as fields, and a text that says what and where."""

import copy
import inspect
import pickle

import pytest

from meterproof_proofs import (
    BadProof,
    BadTile,
    MalformedBundle,
    MalformedCheckpoint,
    MalformedEventProof,
    MalformedFrontier,
    MalformedKey,
    MalformedNote,
    MalformedTilePath,
    MalformedTlogProof,
    MissingTile,
    OutOfRange,
    ProofError,
    TooFewWitnesses,
    UnverifiedNote,
    WrongHashSize,
    WrongOrigin,
    errors,
)

EXAMPLES = [
    (WrongHashSize("root", 31), "root is 31 bytes long; a SHA-256 hash is exactly 32 bytes"),
    (OutOfRange("index", 8, 0, 7), "index is 8; it must be from 0 to 7"),
    (OutOfRange("index", 0, 0, -1), "index is 0, but here no value is possible"),
    (MalformedFrontier(7, 3, 2), "a frontier of size 7 has 3 hashes, not 2"),
    (BadProof("inclusion of 5 in 8", "too short"), "inclusion of 5 in 8 is not proved: too short"),
    (MalformedNote("no text"), "malformed note: no text"),
    (MalformedNote("no text", 2), "malformed note in line 2: no text"),
    (MalformedCheckpoint("no size", 2), "malformed checkpoint in line 2: no size"),
    (MalformedKey("no name"), "malformed key: no name"),
    (UnverifiedNote("wrong", ("a", "\u2014")), r"note not verified: wrong (signed as 'a', '\u2014')"),
    (WrongOrigin("a", "b"), "the checkpoint is of log 'b', not of 'a'"),
    (MalformedTilePath("tile/0", "no index"), "malformed tile path 'tile/0': no index"),
    (MissingTile("tile/0/000"), "tile/0/000 is missing, though the tree's size implies it"),
    (BadTile("tile/0/000", "too short"), "tile/0/000 does not hold: too short"),
    (MalformedBundle("too long"), "malformed entry bundle: too long"),
    (MalformedBundle("too long", 3), "malformed entry bundle, entry 3: too long"),
    (MalformedTlogProof("no index", 2), "malformed proof in line 2: no index"),
    (MalformedEventProof("no event", 2), "malformed event proof in line 2: no event"),
    (TooFewWitnesses(2, ("w1",)), "2 known witnesses must have cosigned the checkpoint; 1 did: 'w1'"),
    (TooFewWitnesses(1, ()), "1 known witnesses must have cosigned the checkpoint; 0 did: none"),
]


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_text_and_travel(error: ProofError, text: str) -> None:
    assert str(error) == text
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301  # its own bytes
        assert (type(again), vars(again), str(again)) == (type(error), vars(error), text)


def test_every_error_is_in_the_tree_and_in_the_examples() -> None:
    defined = {one for _, one in inspect.getmembers(errors, inspect.isclass)}
    assert all(issubclass(one, ProofError) for one in defined)
    assert defined - {ProofError} == {type(error) for error, _ in EXAMPLES}
