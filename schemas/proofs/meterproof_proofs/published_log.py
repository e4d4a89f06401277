"""Verify a log as it is published (c2sp.org/tlog-tiles), whoever wrote it, from its files and its key alone.

Every entry is hashed, every tile derived again and compared, the root compared with the signed one; every file must be
one that the checkpoint implies or an earlier width of it, and no byte may follow. What a folder can't show by itself is
that it was rolled back or written anew: give the checkpoints that you kept.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.derived_tree import DerivedTree
from meterproof_proofs.errors import BadTile, MissingTile, ProofError
from meterproof_proofs.event_proof import keys_of_log
from meterproof_proofs.note import SignedNote, Verifier
from meterproof_proofs.published_files import CHECKPOINT_FILE, FileFault, PublishedFiles
from meterproof_proofs.tree import EMPTY_ROOT
from meterproof_proofs.tree_hashing import leaf_hashes


@dataclass(slots=True)
class PublishedLogReport:
    """What was found in a published log."""

    folder: Path
    checkpoint: Checkpoint | None = None
    """The signed checkpoint; None if no key given signed it."""
    files: int = 0
    """Tiles and bundles that were compared."""
    faults: list[FileFault] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the checkpoint is signed and everything follows from it and the entries."""
        return self.checkpoint is not None and not self.faults


def verify_published_log(
    folder: Path,
    verifiers: Iterable[Verifier],
    *,
    origin: str | None = None,
    remembered: Sequence[tuple[Path, bytes]] = (),
    on_progress: Callable[[int], None] | None = None,
) -> PublishedLogReport:
    """Verify a folder that holds `checkpoint` and `tile/`; never raises for what it finds there.

    1. The checkpoint is signed. 2. The entries of all bundles give every tile, and, where they stand, the roots of the
    checkpoint and of those remembered. 3. Nothing is missing, nothing is too much.

    Args:
        folder: the log's prefix.
        verifiers: keys of logs; one named like the log is the only one for it.
        origin: the log that is meant; None for any that the keys sign for.
        remembered: notes of signed checkpoints kept from before, with the files that they are from.
        on_progress: told how many entries were hashed since the last call.

    Raises:
        OSError: a file cannot be read.

    """
    report, keys = PublishedLogReport(folder), list(verifiers)
    file = folder / CHECKPOINT_FILE
    try:
        checkpoint = _opened(file.read_bytes(), keys, origin)  # 1
    except FileNotFoundError:
        report.faults.append(FileFault(file, "is missing"))
        return report
    except ProofError as error:
        report.faults.append(FileFault(file, str(error)))
        return report
    kept = _remembered(report, checkpoint.origin, keys, remembered)
    published, tree = PublishedFiles(folder), DerivedTree()
    wanted = {one.size for one in (checkpoint, *(one for _, one in kept))}
    roots = {0: EMPTY_ROOT}
    try:
        for entries in published.entries(checkpoint.size):  # 2
            begin = 0
            for end in sorted({size - tree.size for size in wanted if 0 < size - tree.size < len(entries)}):
                _take(published, tree, entries[begin:end])
                roots[tree.size] = tree.frontier().root()
                begin = end
            _take(published, tree, entries[begin:])
            if tree.size in wanted:
                roots[tree.size] = tree.frontier().root()
            if on_progress is not None:
                on_progress(len(entries))
    except (BadTile, MissingTile) as error:
        report.faults += [FileFault(folder, str(error)), *published.faults]
        return report
    if roots[checkpoint.size] != checkpoint.root:
        fault = (
            f"the signed root of size {checkpoint.size} is not {roots[checkpoint.size].hex()}, which the entries give"
        )
        report.faults.append(FileFault(file, fault))
    for path, one in kept:
        if one.size > checkpoint.size:
            fault = f"{one.size} entries were signed for when it was kept, and only {checkpoint.size} now: rolled back"
            report.faults.append(FileFault(path, fault))
        elif roots[one.size] != one.root:
            fault = (
                f"the root signed for size {one.size} is not {roots[one.size].hex()}, which the entries give: a fork"
            )
            report.faults.append(FileFault(path, fault))
    published.finish(checkpoint.size)  # 3
    report.faults += published.faults
    report.checkpoint, report.files = checkpoint, published.files
    return report


def _take(published: PublishedFiles, tree: DerivedTree, entries: Sequence[bytes]) -> None:
    leaves = leaf_hashes(entries)
    published.take(entries, leaves, tree.extend(leaves))


def _opened(note: bytes, keys: Sequence[Verifier], origin: str | None) -> Checkpoint:
    stated = Checkpoint.parse(SignedNote.parse(note).text).origin
    return open_checkpoint(note, keys_of_log(keys, stated), origin=stated if origin is None else origin)


def _remembered(
    report: PublishedLogReport, origin: str, keys: Sequence[Verifier], remembered: Sequence[tuple[Path, bytes]]
) -> list[tuple[Path, Checkpoint]]:
    kept = []
    for path, note in remembered:
        try:
            kept.append((path, _opened(note, keys, origin)))
        except ProofError as error:
            report.faults.append(FileFault(path, f"cannot be compared: {error}"))
    return kept
