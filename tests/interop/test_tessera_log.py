"""A log that Tessera wrote is accepted by our verifier, with every checkpoint kept; its mutations are refused.

Tessera's entries are opaque bytes to us, and the log's files are its own: nothing here was made by our writer.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meterproof_proofs.checkpoint import open_checkpoint
from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.published_log import PublishedLogReport, verify_published_log
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tlog_proof import TlogProof
from meterproof_proofs.tree import leaf_hash, verify_consistency
from tests.interop.tools import verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # where it is the first, it builds the tools

FIRST, SIZE = 600, 66_000
"""Entries when the first checkpoint was kept, and in the end: three levels of tiles."""
ENTRY_BYTES = 100
EDGE = f"{SIZE // 256}.p/{SIZE % 256}"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log as a web server would publish it, its key, and a checkpoint from before."""
    folder = tmp_path_factory.mktemp("tessera")
    for entries, batch in ((FIRST, 250), (SIZE - FIRST, 10_000)):
        sizes = "-entries", str(entries), "-bytes", str(ENTRY_BYTES), "-batch", str(batch)
        code, said = verdict("write-tessera", *sizes, folder / "log", folder / "log.vkey")
        assert code == 0, said
        size = json.JSONDecoder().raw_decode(said)[0]["size"]
        shutil.copy(folder / "log/checkpoint", folder / f"kept-{size:06}")
    shutil.rmtree(folder / "log/.state")  # what Tessera itself goes on from, and does not publish
    return folder


@pytest.fixture
def published(written: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(written, tmp_path / "published"))


def verified(folder: Path, *kept: int) -> PublishedLogReport:
    remembered = [(path, path.read_bytes()) for path in (folder / f"kept-{size:06}" for size in kept)]
    return verify_published_log(folder / "log", read_verifiers(folder / "log.vkey"), remembered=remembered)


def test_it_is_accepted_and_extends_the_checkpoint_kept(written: Path) -> None:
    report = verified(written, FIRST, SIZE)
    assert report.holds, report.faults
    assert report.checkpoint is not None
    assert report.checkpoint.size == SIZE
    assert report.files > 2 * SIZE // 256


def test_proofs_are_made_from_its_tiles(written: Path) -> None:
    keys = read_verifiers(written / "log.vkey")
    note = (written / "log/checkpoint").read_bytes()
    checkpoint = open_checkpoint(note, keys)
    old = open_checkpoint((written / f"kept-{FIRST:06}").read_bytes(), keys)

    def read(path: str) -> bytes | None:
        file = written / "log" / path
        return file.read_bytes() if file.is_file() else None

    tree = TileTree(checkpoint.size, checkpoint.root, read)
    for index in (0, FIRST, 65_535, 65_536, SIZE - 1, *random.Random(1).sample(range(SIZE), 20)):
        entry = tree.entries(index // 256)[index % 256]
        assert len(entry) == ENTRY_BYTES
        proof = TlogProof(index, tuple(tree.inclusion_proof(index)), note)
        assert TlogProof.parse(proof.format()).verify(leaf_hash(entry), keys, origin=checkpoint.origin) == checkpoint
    verify_consistency(
        old_size=old.size,
        old_root=old.root,
        new_size=checkpoint.size,
        new_root=checkpoint.root,
        proof=tree.consistency_proof(old.size),
    )


def edit(path: str, how: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "log" / path).write_bytes(how((folder / "log" / path).read_bytes()))

    return change


def flip(path: str, at: int = 70) -> Callable[[Path], None]:
    return edit(path, lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "log" / path).unlink()


def swap_bundles(folder: Path) -> None:
    first, second = (folder / "log/tile/entries" / name for name in ("000", "001"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a bit of an entry": flip("tile/entries/100"),
    "a bit of an entry of the partial bundle": flip(f"tile/entries/{EDGE}"),
    "a bit of an entry's length": flip("tile/entries/100", 1),
    "a bit of a full level-0 tile": flip("tile/0/100"),
    "a bit of a full level-1 tile": flip("tile/1/000"),
    "a bit of the partial level-0 tile": flip(f"tile/0/{EDGE}"),
    "a bit of the top tile": flip("tile/2/000.p/1", 3),
    "a bit of the note's text": flip("checkpoint", 5),
    "a bit of the signature": edit(
        "checkpoint", lambda note: note[:-20] + (b"A" if note[-20] != 65 else b"B") + note[-19:]
    ),
    "a full tile missing": remove("tile/0/100"),
    "a bundle missing": remove("tile/entries/100"),
    "the right edge missing": remove(f"tile/0/{EDGE}"),
    "the checkpoint missing": remove("checkpoint"),
    "two bundles swapped": swap_bundles,
    "a tile one hash short": edit("tile/0/100", lambda content: content[:-32]),
    "a trailing byte after a tile": edit("tile/0/100", lambda content: content + b"\0"),
    "a trailing byte after a full bundle": edit("tile/entries/100", lambda content: content + b"\0"),
    "a trailing byte after the partial bundle": edit(f"tile/entries/{EDGE}", lambda content: content + b"\0"),
    "an entry too many in the partial bundle": edit(
        f"tile/entries/{EDGE}", lambda content: content + content[: 2 + ENTRY_BYTES]
    ),
    "a trailing byte after the note": edit("checkpoint", lambda content: content + b"x"),
    "a stray file": lambda folder: (folder / "log/tile/0/notes.txt").touch(),
    "an older checkpoint put back": lambda folder: (folder / f"kept-{FIRST:06}").replace(folder / "log/checkpoint"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_its_mutations_are_refused(published: Path, change: str) -> None:
    CHANGES[change](published)
    assert not verified(published, SIZE).holds
