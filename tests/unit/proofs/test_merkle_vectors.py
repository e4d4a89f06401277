"""The vectors of transparency-dev/merkle: what it accepts is accepted, what it refuses is refused."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any, Final

import pytest

from meterproof_proofs.errors import ProofError
from meterproof_proofs.tree import verify_consistency, verify_inclusion

VECTORS: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "transparency_dev_merkle.json").read_text("utf-8"))
MERKLE: Final = Path(__file__).parents[3].parent / "shared" / "vectors" / "merkle"
"""Where a newer collection may lie beside the repository: `inclusion/*/*.json` and `consistency/*/*.json`."""

STRICTER: Final = {"additional/sizes-are-equal-one-and-proof-is-empty"}
"""Equal "roots" of twelve bytes, which they accept as equal; we take no hash that is not 32 bytes long."""


def hashes(encoded: list[str] | None) -> list[bytes]:
    return [b64decode(one) for one in encoded or []]


def holds(kind: str, vector: dict[str, Any]) -> bool:
    """Whether our verifier accepts a vector."""
    try:
        if kind == "inclusion":
            verify_inclusion(
                leaf=b64decode(vector["leafHash"] or ""),
                index=vector["leafIdx"],
                size=vector["treeSize"],
                proof=hashes(vector["proof"]),
                root=b64decode(vector["root"] or ""),
            )
        else:
            verify_consistency(
                old_size=vector["size1"],
                old_root=b64decode(vector["root1"] or ""),
                new_size=vector["size2"],
                new_root=b64decode(vector["root2"] or ""),
                proof=hashes(vector["proof"]),
            )
    except ProofError:
        return False
    return True


def test_the_vectors_are_all_there() -> None:
    """Both kinds, both answers: a file that was cut off would otherwise pass."""
    for kind, count, refused in (("inclusion", 98, 92), ("consistency", 98, 92)):
        found = VECTORS[kind].values()
        assert len(found) == count
        assert sum(vector["wantErr"] for vector in found) == refused


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("inclusion", "consistency") for name in VECTORS[kind]]
)
def test_vector(kind: str, name: str) -> None:
    vector = VECTORS[kind][name]
    assert holds(kind, vector) is (not vector["wantErr"] and name not in STRICTER), vector["desc"]


@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_vectors_beside_the_repository(kind: str) -> None:
    files = sorted((MERKLE / kind).rglob("*.json"))
    if not files:
        pytest.skip(f"no vectors at {MERKLE / kind}; those in the repository were run")
    for file in files:
        vector = json.loads(file.read_bytes())
        name = file.relative_to(MERKLE / kind).with_suffix("").as_posix()
        assert holds(kind, vector) is (not vector["wantErr"] and name not in STRICTER), file
