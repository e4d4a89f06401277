"""A log that the audit sink published is verified by programs that others wrote; a changed one they refuse.

The table says what each tool finds. Where one misses a change, that stands there too: it is why `meterproof verify` has
more rules, and why a reader keeps the last checkpoint.
"""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.cosignature import WitnessSigner, add_signatures
from meterproof_proofs.note import Signer
from meterproof_proofs.tile_proofs import TileTree
from meterproof_proofs.tlog_proof import TlogProof
from meterproof_schemas.records_tree import records_origin
from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.verification import verify_folder
from tests.interop.proof_case import bent, case_of
from tests.interop.tools import verdict
from tests.log_builder import LogBuilder, signed_pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # where it is the first, it builds the tools

SIZES = [1, 255, 256, 999, *([1_000] * 65), 100, 40]
"""Records: across full tiles of two levels; the last two checkpoints lie in one bundle: both have all their files."""
WHOLE_LOG = ["verify-xmod", "verify-torchwood", "verify-fsck"]


class Published:
    """What an outsider is given: the files, the key, and the checkpoints kept from before."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.tlog = self.log / "tlog"
        self.vkey = folder / "log.vkey"
        self.old = sorted(folder.glob("old-*"))

    def checkpoint(self) -> tuple[Checkpoint, bytes]:
        note = (self.tlog / "checkpoint").read_bytes()
        return open_checkpoint(note, [SIGNER.verifier]), note

    def tree(self) -> TileTree:
        checkpoint, _ = self.checkpoint()

        def read(path: str) -> bytes | None:
            file = self.tlog / path
            return file.read_bytes() if file.is_file() else None

        return TileTree(checkpoint.size, checkpoint.root, read)

    def entry(self, index: int) -> bytes:
        return self.tree().entries(index // 256)[index % 256]

    def verdict(self, tool: str) -> tuple[int, str]:
        old = [argument for path in self.old for argument in ("-old", str(path))] if tool == "verify-xmod" else []
        return verdict(tool, *old, self.tlog, self.vkey)


LOG = LogBuilder()
SEED = b"\x07" * 32
SIGNER = Signer(LOG.origin, SEED)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 66,651 events, with a checkpoint after each of several records."""
    folder = tmp_path_factory.mktemp("published")
    asyncio.run(write(folder))
    return folder


async def write(folder: Path) -> None:
    """Let the audit sink write and publish it."""
    (folder / "log.vkey").write_text(SIGNER.verifier.vkey + "\n")
    sink = AuditSink(folder / "audit", verifiers=[SIGNER.verifier])
    await sink.write(0, LOG.genesis, LOG.records)
    for number, size in enumerate(SIZES):
        LOG.batch(size)
        await sink.write(0, LOG.genesis, LOG.records[-1:])
        if number % 16 < 4 or number >= len(SIZES) - 2:
            pair = signed_pair(LOG, seed=SEED)
            assert pair.records is not None
            sink.offer_checkpoints(pair.events.note, pair.records.note)
            await sink.publish()
            (folder / f"old-{number:03}").write_bytes(pair.events.note)
    await sink.close()
    (folder / "audit" / log_folder_name(LOG.origin)).rename(folder / "log")


@pytest.fixture
def published(written: Path, tmp_path: Path) -> Published:
    """A copy of its own."""
    return Published(Path(shutil.copytree(written, tmp_path / "published")))


@pytest.mark.parametrize("tool", WHOLE_LOG)
def test_the_whole_log_is_accepted(written: Path, tool: str) -> None:
    published = Published(written)
    assert published.checkpoint()[0].size == sum(SIZES) == LOG.state.position
    assert len(published.old) > 15
    assert published.verdict(tool)[0] == 0, published.verdict(tool)
    assert verify_folder(published.log, [SIGNER.verifier]).holds


# --- what each finds, and what it misses ---


def flip(path: str, at: int = 70) -> Callable[[Published], None]:
    def change(published: Published) -> None:
        content = (published.tlog / path).read_bytes()
        (published.tlog / path).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])

    return change


def edit(path: str, how: Callable[[bytes], bytes]) -> Callable[[Published], None]:
    def change(published: Published) -> None:
        (published.tlog / path).write_bytes(how((published.tlog / path).read_bytes()))

    return change


def flip_signature(published: Published) -> None:
    note = (published.tlog / "checkpoint").read_bytes()
    (published.tlog / "checkpoint").write_bytes(note[:-20] + (b"A" if note[-20:-19] != b"A" else b"B") + note[-19:])


def remove(path: str) -> Callable[[Published], None]:
    return lambda published: (published.tlog / path).unlink()


def swap_bundles(published: Published) -> None:
    first, second = published.tlog / "tile/entries/000", published.tlog / "tile/entries/001"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def add_stray_file(published: Published) -> None:
    (published.tlog / "tile/0/notes.txt").write_bytes(b"hello")


def roll_back(published: Published) -> None:
    shutil.copy(published.old[-2], published.tlog / "checkpoint")


LAST = sum(SIZES) % 256
PARTIAL = f"{sum(SIZES) // 256}"
ENTRIES_EDGE, TILE_EDGE = f"tile/entries/{PARTIAL}.p/{LAST}", f"tile/0/{PARTIAL}.p/{LAST}"

TABLE: dict[str, tuple[Callable[[Published], None], str]] = {
    "a bit of an entry": (flip("tile/entries/100"), "xtf"),
    "a bit of an entry of the partial bundle": (flip(ENTRIES_EDGE), "xtf"),
    "a bit of a full level-0 tile": (flip("tile/0/100"), "xtf"),
    "a bit of a full level-1 tile": (flip("tile/1/000"), "xtf"),
    "a bit of the partial level-0 tile": (flip(TILE_EDGE), "xtf"),
    "a bit of the top tile": (flip("tile/2/000.p/1", 3), "xtf"),
    "a bit of the note's text": (flip("checkpoint", 5), "xtf"),
    "a bit of the signature": (flip_signature, "xtf"),
    "a full tile missing": (remove("tile/0/100"), "xtf"),
    "a bundle missing": (remove("tile/entries/100"), "xtf"),
    "the right edge missing": (remove(TILE_EDGE), "xtf"),
    "two bundles swapped": (swap_bundles, "xtf"),
    "a tile one hash short": (edit("tile/0/100", lambda content: content[:-32]), "xtf"),
    "a trailing byte after a full bundle": (edit("tile/entries/100", lambda content: content + b"\0"), "xtf"),
    "a trailing byte after the partial bundle": (edit(ENTRIES_EDGE, lambda content: content + b"\0"), "xtf"),
    "an entry too many in the partial bundle": (edit(ENTRIES_EDGE, lambda content: content + content[:34]), "xt"),
    "a trailing byte after the note": (edit("checkpoint", lambda content: content + b"x"), "xtf"),
    "a stray file": (add_stray_file, ""),
    "an older checkpoint put back": (roll_back, "x"),
}
"""What was changed -> how, and who refuses it: x/mod with the checkpoints kept, torchwood, Tessera's fsck package."""


@pytest.mark.parametrize("tool", WHOLE_LOG)
@pytest.mark.parametrize("change", TABLE)
def test_a_changed_log_is_refused_by_whom_the_table_says(published: Published, change: str, tool: str) -> None:
    mutate, refused_by = TABLE[change]
    mutate(published)
    code, said = published.verdict(tool)
    assert code == (1 if tool.removeprefix("verify-")[0] in refused_by else 0), said


@pytest.mark.parametrize("change", TABLE)
def test_our_own_verifier_refuses_them_all(published: Published, change: str) -> None:
    TABLE[change][0](published)
    assert not verify_folder(published.log, [SIGNER.verifier]).holds


@pytest.mark.parametrize("tool", WHOLE_LOG)
def test_the_second_tree_is_a_log_like_any_other(published: Published, tool: str) -> None:
    second, entries = published.log / "records-tlog", published.log / "records-tlog/tile/entries/000.p"
    published.vkey.write_text(Signer(records_origin(LOG.origin), SEED).verifier.vkey + "\n")
    assert verdict(tool, second, published.vkey)[0] == 0
    bundle = max(entries.iterdir(), key=lambda path: int(path.name))
    content = bundle.read_bytes()
    bundle.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    assert verdict(tool, second, published.vkey)[0] == 1


def test_another_key_is_refused(published: Published) -> None:
    published.vkey.write_text(Signer(LOG.origin, bytes(32)).verifier.vkey)
    for tool in WHOLE_LOG:
        assert published.verdict(tool)[0] == 1


def test_a_witness_is_counted_by_torchwood(published: Published) -> None:
    checkpoint, note = published.checkpoint()
    witness = WitnessSigner("witness.example/w1", bytes(range(32, 64)))
    arguments = published.tlog, published.vkey, witness.verifier.vkey
    assert verdict("verify-torchwood", *arguments)[0] == 1
    cosigned = add_signatures(note, [witness.cosign(checkpoint, 1_700_000_000)])
    (published.tlog / "checkpoint").write_bytes(cosigned)
    assert verdict("verify-torchwood", *arguments)[0] == 0
    assert published.verdict("verify-xmod")[0] == published.verdict("verify-fsck")[0] == 0
    other = Checkpoint(checkpoint.origin, checkpoint.size - 1, checkpoint.root)
    wrong = add_signatures(note, [witness.cosign(other, 1_700_000_000)])
    (published.tlog / "checkpoint").write_bytes(wrong)
    assert verdict("verify-torchwood", *arguments)[0] == 1


# --- single proofs ---

INDEXES = [0, 255, 256, 65_535, 65_536, 66_000, sum(SIZES) - 1]


@pytest.mark.parametrize("tool", ["verify-sigstore", "verify-metamorphic"])
def test_single_proofs_are_accepted_and_changed_ones_refused(written: Path, tmp_path: Path, tool: str) -> None:
    published = Published(written)
    file, good = tmp_path / "case.json", case_of(published.tlog, SIGNER.verifier, INDEXES, published.old[:-1])
    assert len(good["old"]) > 15

    def code(**changes: Any) -> int:
        file.write_text(json.dumps(good | changes))
        return verdict(tool, file)[0]

    assert code() == 0
    last = good["proofs"][-1]
    for wrong in (
        last | {"entry": bent(last["entry"]), "leaf": bent(last["leaf"])},
        last | {"index": last["index"] - 1},
        last | {"hashes": last["hashes"][:-1]},
        last | {"hashes": [bent(last["hashes"][0]), *last["hashes"][1:]]},
    ):
        assert code(proofs=[*good["proofs"][:-1], wrong]) == 1
    for other in (bent(good["checkpoint"]), good["old"][-1]["checkpoint"]):
        assert code(checkpoint=other) == 1
    if tool == "verify-metamorphic":
        old = good["old"][3]
        assert code(old=[old | {"hashes": old["hashes"][:-1]}]) == 1
        assert code(old=[old | {"hashes": good["old"][4]["hashes"]}]) == 1


@pytest.mark.parametrize("index", INDEXES)
def test_an_offline_proof_is_accepted_and_for_another_entry_refused(published: Published, index: int) -> None:
    """By torchwood, and by transparency-dev's formats and merkle; exit code 3 would mean that they differ."""
    tree, (_, note) = published.tree(), published.checkpoint()
    proof, entry = published.tlog / "one.tlog-proof", published.tlog / "entry"
    good = TlogProof(index, tuple(tree.inclusion_proof(index)), note, b"\1opaque").format()
    proof.write_bytes(good)
    entry.write_bytes(published.entry(index))
    assert verdict("verify-tlog-proof", published.vkey, proof, entry)[0] == 0
    entry.write_bytes(published.entry(index ^ 1 if index + 1 < sum(SIZES) else index - 1))
    assert verdict("verify-tlog-proof", published.vkey, proof, entry)[0] == 1
    entry.write_bytes(published.entry(index))
    for wrong in (good.replace(b"\nindex ", b"\nindex 1"), good[:-9] + b"AAAAAAA=\n"):
        proof.write_bytes(wrong)
        assert verdict("verify-tlog-proof", published.vkey, proof, entry)[0] == 1
