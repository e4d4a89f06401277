"""A published log, whoever wrote it, is verified from its files and key alone; every change is refused and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meterproof_proofs.bundle import encode_bundle
from meterproof_proofs.checkpoint import Checkpoint, sign_checkpoint
from meterproof_proofs.command import main
from meterproof_proofs.note import Signer
from meterproof_proofs.published_log import verify_published_log
from meterproof_proofs.tiles import TileEdge, bundles_of
from meterproof_proofs.tree_hashing import leaf_hashes

SIGNER = Signer("log.example/p0", bytes(32))
ENTRIES = [b"x" * (number % 50) for number in range(700)]
"""Of many lengths, some empty."""
OLD, SIZE = 300, len(ENTRIES)


def publish(folder: Path, sizes: tuple[int, ...], entries: list[bytes] = ENTRIES, signer: Signer = SIGNER) -> None:
    """Write the files of each of these sizes, as a log that grew has them; the last checkpoint is the log's."""
    for size in sizes:
        edge = TileEdge()
        files = {tile.path: content for tile, content in edge.extend(leaf_hashes(entries[:size]))}
        files |= {tile.path: content for tile, content in edge.partials()}
        for bundle in bundles_of(size):
            files[bundle.path] = encode_bundle(entries[256 * bundle.index : 256 * bundle.index + bundle.width])
        note = sign_checkpoint(Checkpoint(signer.name, size, edge.root()), [signer])
        for path, content in (files | {"checkpoint": note, f"../kept-{size}": note}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 300, later 700 entries; the earlier partial files are still there."""
    folder = tmp_path_factory.mktemp("published")
    publish(folder / "tlog", (OLD, SIZE))
    return folder


@pytest.fixture
def tlog(written: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(written, tmp_path / "copy")) / "tlog"


def faults(tlog: Path, *kept: Path) -> str:
    remembered = [(path, path.read_bytes()) for path in kept]
    report = verify_published_log(tlog, [SIGNER.verifier], remembered=remembered)
    assert report.holds == (not report.faults)
    return "\n".join(map(str, report.faults))


def test_a_genuine_log_holds_with_every_checkpoint_kept(tlog: Path) -> None:
    told: list[int] = []
    report = verify_published_log(
        tlog,
        [SIGNER.verifier],
        origin=SIGNER.name,
        remembered=[(path, path.read_bytes()) for path in sorted(tlog.parent.glob("kept-*"))],
        on_progress=told.append,
    )
    assert report.holds, report.faults
    assert report.checkpoint is not None
    assert report.checkpoint.size == SIZE == sum(told)
    assert report.files == sum(1 for path in (tlog / "tile").rglob("*") if path.is_file())


def test_partial_files_that_full_ones_replace_may_be_gone(tlog: Path) -> None:
    shutil.rmtree(tlog / "tile/0/001.p")
    shutil.rmtree(tlog / "tile/entries/001.p")
    assert not faults(tlog)


def test_the_empty_log_holds(tmp_path: Path) -> None:
    publish(tmp_path / "tlog", (0,))
    assert not faults(tmp_path / "tlog", tmp_path / "kept-0")


def flip(path: str, at: int) -> Callable[[Path], None]:
    def change(tlog: Path) -> None:
        content = bytearray((tlog / path).read_bytes())
        content[at] ^= 1
        (tlog / path).write_bytes(content)

    return change


def append(path: str, more: bytes) -> Callable[[Path], object]:
    return lambda tlog: (tlog / path).write_bytes((tlog / path).read_bytes() + more)


def cut(path: str, count: int) -> Callable[[Path], object]:
    return lambda tlog: (tlog / path).write_bytes((tlog / path).read_bytes()[:-count])


def remove(path: str) -> Callable[[Path], None]:
    return lambda tlog: (tlog / path).unlink()


def add(path: str, content: bytes) -> Callable[[Path], None]:
    def change(tlog: Path) -> None:
        (tlog / path).parent.mkdir(parents=True, exist_ok=True)
        (tlog / path).write_bytes(content)

    return change


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of an entry": (flip("tile/entries/001", 3), "tile/0/001, position 256: hash 0 of it"),
    "a bit of an entry's length": (flip("tile/entries/001", 0), "tile/entries/001"),
    "a bit of a full tile": (flip("tile/0/001", 70), "hash 2 of it"),
    "a bit of a partial tile": (flip("tile/0/002.p/188", 70), "hash 2 of it"),
    "a bit of an earlier partial tile": (flip("tile/0/001.p/44", 70), "tile/0/001.p/44"),
    "a bit of an earlier partial bundle": (flip("tile/entries/001.p/44", 3), "tile/entries/001.p/44"),
    "a bit of the top": (flip("tile/1/000.p/2", 40), "hash 1 of it"),
    "a byte behind a tile": (append("tile/0/001", b"\0"), "8193 bytes"),
    "a byte behind the edge": (append("tile/1/000.p/2", b"\0"), "65 bytes"),
    "a byte behind a bundle": (append("tile/entries/001", b"\0"), "bytes follow the last"),
    "an entry too many in the last bundle": (append("tile/entries/002.p/188", b"\0\1x"), "bytes follow the last"),
    "a tile a hash short": (cut("tile/0/001", 32), "8160 bytes"),
    "a full tile missing": (remove("tile/0/001"), "tile/0/001: is missing"),
    "the edge missing": (remove("tile/0/002.p/188"), "tile/0/002.p/188: is missing"),
    "the top missing": (remove("tile/1/000.p/2"), "tile/1/000.p/2: is missing"),
    "a bundle missing": (remove("tile/entries/000"), "tile/entries/000 is missing"),
    "a stray file": (add("tile/0/notes.txt", b"hello"), "does not belong here"),
    "a file beside tile": (add("index.html", b"hello"), "does not belong here"),
    "a tile of no such level": (add("tile/3/000.p/1", bytes(32)), "holds more than"),
    "a tile behind the end": (add("tile/0/003", bytes(8_192)), "holds more than"),
    "a wider tile": (add("tile/1/000.p/3", bytes(96)), "holds more than"),
    "an empty folder": (lambda tlog: (tlog / "tile/7").mkdir(), "is empty"),
    "a bit of the note": (flip("checkpoint", 3), "checkpoint"),
    "a bit of the signature": (flip("checkpoint", -20), "checkpoint"),
    "a byte behind the note": (append("checkpoint", b"x"), "checkpoint"),
    "the checkpoint missing": (remove("checkpoint"), "checkpoint: is missing"),
    "signed by another key": (
        lambda tlog: publish(tlog, (SIZE,), signer=Signer(SIGNER.name, b"\1" * 32)),
        "no signature by a known key",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_log_is_refused_and_the_place_is_named(tlog: Path, change: str) -> None:
    make, said = CHANGES[change]
    make(tlog)
    assert said in faults(tlog)


def test_a_rolled_back_log_is_shown_by_a_checkpoint_kept(tmp_path: Path) -> None:
    publish(tmp_path / "tlog", (OLD,))
    publish(tmp_path / "later/tlog", (SIZE,))
    assert not faults(tmp_path / "tlog")
    assert "rolled back" in faults(tmp_path / "tlog", tmp_path / f"later/kept-{SIZE}")


def test_a_log_written_anew_is_shown_by_a_checkpoint_kept(tmp_path: Path) -> None:
    publish(tmp_path / "tlog", (SIZE,), [*ENTRIES[:10], b"another", *ENTRIES[11:]])
    publish(tmp_path / "before/tlog", (OLD,))
    assert not faults(tmp_path / "tlog")
    assert "a fork" in faults(tmp_path / "tlog", tmp_path / f"before/kept-{OLD}")


def test_a_kept_checkpoint_of_another_log_is_refused(tlog: Path, tmp_path: Path) -> None:
    publish(tmp_path / "other/tlog", (1,), signer=Signer("log.example/p1", bytes(32)))
    assert "cannot be compared" in faults(tlog, tmp_path / "other/kept-1")


def test_the_command_tells_the_truth(tlog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["tlog", "verify", str(tlog), "--vkey", SIGNER.verifier.vkey]
    assert main([*call, "--since", str(tlog.parent / f"kept-{OLD}")]) == 0
    assert capsys.readouterr().out.startswith(f"true: the {SIZE} entries of log {SIGNER.name}")
    flip("tile/0/001", 70)(tlog)
    assert main([*call, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["holds"], found["size"], found["faults"][0]["position"]) == (False, SIZE, 258)
    assert main(call) == 1
    assert "hash 2 of it is not what follows" in capsys.readouterr().err
    (tlog.parent / "nothing-kept").mkdir()
    for unusable in (
        [*call, "--since", str(tlog.parent / "nothing-kept")],
        ["tlog", "verify", str(tlog / "nowhere"), *call[3:]],
        [*call[:3], "--vkey", str(tlog / "checkpoint")],
    ):
        assert main(unusable) == 2
        assert capsys.readouterr().err.startswith("meterproof tlog: ")
