"""Transparency-log formats: trees, tiles, signed notes, checkpoints, offline proofs and their strict verification.

A name is imported when it is first asked for: a command that needs few of them starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from meterproof_proofs.bundle import MAX_ENTRY_BYTES, decode_bundle, encode_bundle
    from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
    from meterproof_proofs.checkpoint_comparison import Comparison, compare_checkpoints
    from meterproof_proofs.cosignature import (
        MAX_COSIGNATURE_TIME_S,
        Cosignature,
        WitnessSigner,
        WitnessVerifier,
        add_signatures,
        verify_cosignatures,
    )
    from meterproof_proofs.errors import (
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
    )
    from meterproof_proofs.event_proof import EventProof, ProvedEvent
    from meterproof_proofs.frontier import Frontier, batch_root
    from meterproof_proofs.multi_proof import inclusion_multi_proof, root_of_multi_proof
    from meterproof_proofs.note import (
        MAX_NOTE_BYTES,
        MAX_SIGNATURES,
        NoteSignature,
        SignedNote,
        Signer,
        VerifiedNote,
        Verifier,
        open_note,
        sign_note,
    )
    from meterproof_proofs.producer_key import ProducerKey
    from meterproof_proofs.published_files import FileFault
    from meterproof_proofs.published_log import PublishedLogReport, verify_published_log
    from meterproof_proofs.tile_proofs import TileTree
    from meterproof_proofs.tiles import (
        MAX_TILE_LEVEL,
        TILE_WIDTH,
        Bundle,
        Tile,
        TileEdge,
        bundles_between,
        bundles_of,
        decode_tile,
        encode_tile,
        partial_tiles,
        tile_at,
        tiles_between,
        tiles_of,
    )
    from meterproof_proofs.tlog_proof import MAX_PROOF_HASHES, TlogProof
    from meterproof_proofs.tree import (
        EMPTY_ROOT,
        HASH_BYTES,
        MAX_TREE_SIZE,
        consistency_proof,
        inclusion_proof,
        leaf_hash,
        node_hash,
        root_of,
        verify_consistency,
        verify_inclusion,
    )
    from meterproof_proofs.tree_hashing import leaf_hashes

_NAMES_BY_MODULE: Final = {
    "bundle": ("MAX_ENTRY_BYTES", "decode_bundle", "encode_bundle"),
    "checkpoint": ("Checkpoint", "open_checkpoint", "sign_checkpoint"),
    "checkpoint_comparison": ("Comparison", "compare_checkpoints"),
    "cosignature": (
        "MAX_COSIGNATURE_TIME_S",
        "Cosignature",
        "WitnessSigner",
        "WitnessVerifier",
        "add_signatures",
        "verify_cosignatures",
    ),
    "errors": (
        "BadProof",
        "BadTile",
        "MalformedBundle",
        "MalformedCheckpoint",
        "MalformedEventProof",
        "MalformedFrontier",
        "MalformedKey",
        "MalformedNote",
        "MalformedTilePath",
        "MalformedTlogProof",
        "MissingTile",
        "OutOfRange",
        "ProofError",
        "TooFewWitnesses",
        "UnverifiedNote",
        "WrongHashSize",
        "WrongOrigin",
    ),
    "event_proof": ("EventProof", "ProvedEvent"),
    "frontier": ("Frontier", "batch_root"),
    "multi_proof": ("inclusion_multi_proof", "root_of_multi_proof"),
    "note": (
        "MAX_NOTE_BYTES",
        "MAX_SIGNATURES",
        "NoteSignature",
        "SignedNote",
        "Signer",
        "VerifiedNote",
        "Verifier",
        "open_note",
        "sign_note",
    ),
    "producer_key": ("ProducerKey",),
    "published_files": ("FileFault",),
    "published_log": ("PublishedLogReport", "verify_published_log"),
    "tile_proofs": ("TileTree",),
    "tiles": (
        "MAX_TILE_LEVEL",
        "TILE_WIDTH",
        "Bundle",
        "Tile",
        "TileEdge",
        "bundles_between",
        "bundles_of",
        "decode_tile",
        "encode_tile",
        "partial_tiles",
        "tile_at",
        "tiles_between",
        "tiles_of",
    ),
    "tlog_proof": ("MAX_PROOF_HASHES", "TlogProof"),
    "tree": (
        "EMPTY_ROOT",
        "HASH_BYTES",
        "MAX_TREE_SIZE",
        "consistency_proof",
        "inclusion_proof",
        "leaf_hash",
        "node_hash",
        "root_of",
        "verify_consistency",
        "verify_inclusion",
    ),
    "tree_hashing": ("leaf_hashes",),
}
_MODULES: Final = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has that name
    """The public name, from the module that defines it (PEP 562)."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "MAX_COSIGNATURE_TIME_S",
    "MAX_ENTRY_BYTES",
    "MAX_NOTE_BYTES",
    "MAX_PROOF_HASHES",
    "MAX_SIGNATURES",
    "MAX_TILE_LEVEL",
    "MAX_TREE_SIZE",
    "TILE_WIDTH",
    "BadProof",
    "BadTile",
    "Bundle",
    "Checkpoint",
    "Comparison",
    "Cosignature",
    "EventProof",
    "FileFault",
    "Frontier",
    "MalformedBundle",
    "MalformedCheckpoint",
    "MalformedEventProof",
    "MalformedFrontier",
    "MalformedKey",
    "MalformedNote",
    "MalformedTilePath",
    "MalformedTlogProof",
    "MissingTile",
    "NoteSignature",
    "OutOfRange",
    "ProducerKey",
    "ProofError",
    "ProvedEvent",
    "PublishedLogReport",
    "SignedNote",
    "Signer",
    "Tile",
    "TileEdge",
    "TileTree",
    "TlogProof",
    "TooFewWitnesses",
    "UnverifiedNote",
    "VerifiedNote",
    "Verifier",
    "WitnessSigner",
    "WitnessVerifier",
    "WrongHashSize",
    "WrongOrigin",
    "add_signatures",
    "batch_root",
    "bundles_between",
    "bundles_of",
    "compare_checkpoints",
    "consistency_proof",
    "decode_bundle",
    "decode_tile",
    "encode_bundle",
    "encode_tile",
    "inclusion_multi_proof",
    "inclusion_proof",
    "leaf_hash",
    "leaf_hashes",
    "node_hash",
    "open_checkpoint",
    "open_note",
    "partial_tiles",
    "root_of",
    "root_of_multi_proof",
    "sign_checkpoint",
    "sign_note",
    "tile_at",
    "tiles_between",
    "tiles_of",
    "verify_consistency",
    "verify_cosignatures",
    "verify_inclusion",
    "verify_published_log",
]
