"""`meterproof checkpoint compare`: same, consistent, fork, unknown, and what cannot be compared."""

import base64
import json
from pathlib import Path

import pytest

from meterproof_proofs import Checkpoint, Signer, TileEdge, consistency_proof, leaf_hashes, root_of, sign_checkpoint
from meterproof_proofs.commands.checkpoint import main

SIGNER = Signer("log.example/p0", bytes(32))
ENTRIES = [f"entry {number}".encode() for number in range(600)]


def note(folder: Path, name: str, entries: list[bytes], signer: Signer = SIGNER, origin: str = "log.example/p0") -> str:
    file = folder / name
    file.write_bytes(sign_checkpoint(Checkpoint(origin, len(entries), root_of(entries)), [signer]))
    return str(file)


def tlog(folder: Path, entries: list[bytes]) -> str:
    edge = TileEdge()
    for tile, content in [*edge.extend(leaf_hashes(entries)), *edge.partials()]:
        (folder / "tlog" / tile.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tlog" / tile.path).write_bytes(content)
    return str(folder / "tlog")


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["compare", *arguments, "--vkey", SIGNER.verifier.vkey, "--json"])
    return code, json.loads(capsys.readouterr().out)["verdict"]


def test_each_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = note(tmp_path, "old", ENTRIES[:300]), note(tmp_path, "new", ENTRIES)
    other = note(tmp_path, "other", [*ENTRIES[:299], b"changed"])
    empty = note(tmp_path, "empty", [])
    tiles = tlog(tmp_path, ENTRIES)
    assert compare(capsys, old, old) == (0, "same")
    assert compare(capsys, old, other) == (1, "fork")
    assert compare(capsys, old, new) == (3, "unknown")
    for pair in ((old, new), (new, old)):
        assert compare(capsys, *pair, "--tlog", tiles) == (0, "consistent")
    assert compare(capsys, other, new, "--tlog", tiles) == (1, "fork")
    assert compare(capsys, empty, new) == (0, "consistent")
    assert compare(capsys, old, new, "--tlog", str(tmp_path)) == (3, "unknown")
    Path(tiles, "tile/0/001").write_bytes(bytes(8192))
    assert compare(capsys, old, new, "--tlog", tiles) == (3, "unknown")


def test_a_proof_shows_consistency_and_a_wrong_one_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = note(tmp_path, "old", ENTRIES[:300]), note(tmp_path, "new", ENTRIES)
    other = note(tmp_path, "other", [*ENTRIES[:299], b"changed"])
    proof = tmp_path / "proof"
    lines = [base64.b64encode(one).decode() for one in consistency_proof(leaf_hashes(ENTRIES), 300, 600)]
    proof.write_text("\n".join(lines) + "\n")
    assert compare(capsys, old, new, "--proof", str(proof)) == (0, "consistent")
    assert compare(capsys, other, new, "--proof", str(proof)) == (3, "unknown")
    proof.write_text("\n".join(lines[:-1]) + "\n")
    assert compare(capsys, old, new, "--proof", str(proof)) == (3, "unknown")
    proof.write_text("no base64!\n")
    assert main(["compare", old, new, "--vkey", SIGNER.verifier.vkey, "--proof", str(proof)]) == 2
    assert "line 1" in capsys.readouterr().err


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = note(tmp_path, "good", ENTRIES)
    elsewhere = note(tmp_path, "elsewhere", ENTRIES, origin="log.example/p1")
    forged = note(tmp_path, "forged", ENTRIES, signer=Signer("log.example/p0", b"\1" * 32))
    (tmp_path / "no-note").write_bytes(b"hello\n")
    for other, says in ((elsewhere, "p1"), (forged, "no signature"), (str(tmp_path / "no-note"), "malformed")):
        assert main(["compare", good, other, "--vkey", SIGNER.verifier.vkey]) == 2
        assert says in capsys.readouterr().err
    assert main(["compare", good, str(tmp_path / "gone"), "--vkey", SIGNER.verifier.vkey]) == 2
    assert main(["compare", good, good, "--vkey", str(tmp_path / "gone")]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["compare", good])
