"""What the verifiers of single proofs are given: a case, made from a published log."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meterproof_proofs.checkpoint import open_checkpoint
from meterproof_proofs.checkpoint_comparison import read_tlog
from meterproof_proofs.note import Verifier
from meterproof_proofs.tile_proofs import TileTree


def case_of(tlog: Path, verifier: Verifier, indexes: Sequence[int], old: Sequence[Path] = ()) -> dict[str, Any]:
    """Proofs of entries, and of consistency with older checkpoints.

    Args:
        tlog: the folder that holds `checkpoint` and `tile/`.
        verifier: the log's key.
        indexes: of the entries.
        old: files of older checkpoints.

    """
    note = (tlog / "checkpoint").read_bytes()
    checkpoint = open_checkpoint(note, [verifier])
    tree = TileTree(checkpoint.size, checkpoint.root, read_tlog(tlog))
    spki = Ed25519PublicKey.from_public_bytes(verifier.public_key).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return {
        "checkpoint": base64_text(note),
        "vkey": verifier.vkey,
        "name": verifier.name,
        "keyHint": verifier.key_id.hex(),
        "publicKey": base64_text(spki),
        "proofs": [
            {
                "index": index,
                "entry": base64_text(tree.entries(index // 256)[index % 256]),
                "leaf": base64_text(tree.leaf_hash(index)),
                "hashes": [base64_text(one) for one in tree.inclusion_proof(index)],
            }
            for index in indexes
        ],
        "old": [
            {"checkpoint": base64_text(path.read_bytes()), "hashes": [base64_text(one) for one in proof]}
            for path in old
            for proof in [tree.consistency_proof(open_checkpoint(path.read_bytes(), [verifier]).size)]
        ],
    }


def base64_text(content: bytes) -> str:
    """Base64, as text."""
    return base64.b64encode(content).decode()


def bent(encoded: str) -> str:
    """The base64 of the same bytes with one bit changed."""
    content = base64.b64decode(encoded)
    return base64_text(bytes([content[0] ^ 1]) + content[1:])
