"""Which change of an audit folder is found by which command: `docs/verification.md` says it, this holds it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meterproof_proofs.commands.checkpoint import main as checkpoint
from meterproof_proofs.note import Signer
from meterproof_schemas.effect import Effect
from meterproof_schemas.price_book import DEFAULT_METERS, PriceBook, UnitPrice, encode_price_book
from meterproof_sinks.audit_folder import log_folders, segments_of
from meterproof_sinks.audit_retention import RetentionRequest
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.commands.verify import main as verify
from meterproof_sinks.segment_manifest import read_manifest
from tests import zstd
from tests.audit_upkeep import give_up_all
from tests.builders import make_registry_file
from tests.log_builder import LogBuilder, make_log
from tests.published_log import publish, publish_tree, seal, vkey_of
from tests.unit.sinks.test_verify_effects import corrected

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = ("verify", "verify --since", "verify --resume-file", "checkpoint compare")
KEPT_RECORDS = 9


def _log() -> LogBuilder:
    log = make_log()
    for count in (300, 20, 300, 20, 40):
        log.batch(count)
    return log


LOG = _log()


class Folder:
    """A deployment's folder, and what an outsider kept: keys, a checkpoint from before, and a run's resume file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        (self.log,) = log_folders(self.data / "audit")
        self.events = segments_of(self.log)[0].events
        self.heads = segments_of(self.log)[0].records

    def finds(self, command: str) -> bool:
        """Whether a command says of the folder that it is not as it should be."""
        kept, keys = str(self.root / "kept.checkpoint"), ["--vkey", str(self.root / "keys")]
        producers = ["--producers", str(self.root / "registry.json")]
        if command == "checkpoint compare":
            tlog = self.log / "tlog"
            return checkpoint(["compare", kept, str(tlog / "checkpoint"), *keys, "--tlog", str(tlog)]) != 0
        more = {
            "verify": [],
            "verify --since": ["--since", kept],
            "verify --resume-file": ["--resume-file", str(self.root / "verified.json")],
        }[command]
        return verify([str(self.data), *keys, *producers, *more]) != 0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("deployment")
    publish(root / "data" / "audit", LOG, segment_records=4)
    shutil.copy(publish(root / "before", LOG, KEPT_RECORDS) / "checkpoint", root / "kept.checkpoint")
    shutil.rmtree(root / "before")
    (root / "keys").mkdir()
    (root / "keys" / "log.vkey").write_text(vkey_of(LOG) + "\n")
    (root / "registry.json").write_bytes(make_registry_file(LOG.key))
    folder = Folder(root)
    publish_price_book(folder, "2.5")
    assert not any(folder.finds(command) for command in COMMANDS)
    return root


def flip(path: Path, at: int = -40) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit_lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def sealed(change: Callable[[Folder, Segment], object]) -> Callable[[Folder], None]:
    """Seal the folder's segments, which alone is no change that anything finds; then change something of the second."""

    def seal_and_change(folder: Folder) -> None:
        seal(folder.log, LOG)
        assert not any(folder.finds(command) for command in COMMANDS)
        change(folder, segments_of(folder.log)[1])

    return seal_and_change


def compress_anew(_: Folder, segment: Segment) -> None:
    segment.sealed_events.write_bytes(zstd.compress(zstd.decompress(segment.sealed_events.read_bytes()), 19))


def take_out_sealed(_: Folder, segment: Segment) -> None:
    segment.sealed_events.unlink()
    segment.sealed_records.unlink()


def give_up_old(folder: Folder, segment: Segment) -> None:
    before_ms = read_manifest(segment).end.clock_ms + 1
    give_up_all(folder.data / "audit", RetentionRequest(before_ms, "ops", "policy", 0), ())
    assert not segment.sealed_events.exists()


def take_out_segment(folder: Folder) -> None:
    folder.events.unlink()
    folder.heads.unlink()


def publish_price_book(folder: Folder, amount: str) -> None:
    prices = (UnitPrice(meter="requests", amount=amount),)
    content = encode_price_book(PriceBook(version=1, currency="USD", meters=DEFAULT_METERS, prices=prices))
    (folder.data / "audit" / "prices").mkdir(exist_ok=True)
    (folder.data / "audit" / "prices" / "1.json").write_bytes(content)


def replace_log(folder: Folder, log: LogBuilder) -> None:
    shutil.rmtree(folder.data / "audit")
    publish(folder.data / "audit", log, segment_records=4)


def roll_back(folder: Folder) -> None:
    young = LogBuilder()
    young.records = LOG.records[: KEPT_RECORDS - 1]
    replace_log(folder, young)


def write_anew(folder: Folder) -> None:
    other = LogBuilder()
    for count in (5, 5, 700):
        other.batch(count)
    replace_log(folder, other)


def state_another_effect(folder: Folder) -> None:
    other = corrected({"again": Effect.APPLIED})
    replace_log(folder, other)
    (folder.root / "registry.json").write_bytes(make_registry_file(other.key))


def sign_with_another_key(folder: Folder) -> None:
    note = folder.log / "checkpoint"
    entries = [b"x" * 32]
    publish_tree(folder.root / "elsewhere", "", LOG.origin, entries)
    text = note.read_text().partition("\n\n")[0] + "\n"
    forged = Signer(LOG.origin, bytes(32)).sign(text)
    for path in (note, folder.log / "tlog" / "checkpoint"):
        encoded = path.read_text().rpartition(" ")[0]
        path.write_text(f"{encoded} {_base64(forged.key_id + forged.signature)}\n")


def _base64(content: bytes) -> str:
    import base64

    return base64.b64encode(content).decode()


CHANGES: dict[str, Callable[[Folder], object]] = {
    "a bit of an event line": lambda folder: flip(folder.events),
    "an event line taken out": lambda folder: edit_lines(folder.events, lambda lines: lines[1:]),
    "two event lines swapped": lambda folder: edit_lines(folder.events, lambda lines: [lines[1], lines[0], *lines[2:]]),
    "an event line added": lambda folder: edit_lines(folder.events, lambda lines: [*lines, lines[0]]),
    "a bit of a record's frame, header or batch": lambda folder: flip(folder.heads),
    "a segment taken out": take_out_segment,
    "a bit of a sealed segment": sealed(lambda _, segment: flip(segment.sealed_records)),
    "a sealed segment's lines compressed anew": sealed(compress_anew),
    "a sealed segment taken out, its manifest left": sealed(take_out_sealed),
    "a bit of a manifest": sealed(lambda _, segment: flip(segment.manifest, 300)),
    "a manifest taken out": sealed(lambda _, segment: segment.manifest.unlink()),
    "old segments given up, and noted": sealed(give_up_old),
    "a bit of a tile": lambda folder: flip(folder.log / "tlog/tile/0/001"),
    "a bit of a tile at the right edge": lambda folder: flip(next((folder.log / "tlog/tile/1").glob("000.p/*"))),
    "a bit of an entry bundle": lambda folder: flip(folder.log / "tlog/tile/entries/001"),
    "a byte behind a tile": lambda folder: append(folder.log / "tlog/tile/0/001"),
    "a tile taken out": lambda folder: (folder.log / "tlog/tile/0/001").unlink(),
    "a tile of the second tree taken out": lambda folder: shutil.rmtree(folder.log / "records-tlog/tile/0"),
    "a bit of the second tree's checkpoint": lambda folder: flip(folder.log / "records-checkpoint", 5),
    "a file that is no part of the log": lambda folder: (folder.log / "tlog/notes.txt").write_text("hello"),
    "a bit of the checkpoint's signature": lambda folder: flip(folder.log / "tlog" / "checkpoint", -20),
    "the checkpoint signed with another key": sign_with_another_key,
    "a correction's effect, when the log was written, by who signs it": state_another_effect,
    "a log's folder copied beside itself": lambda folder: shutil.copytree(folder.log, folder.log.with_name("copy")),
    "another price book in the place of a published one": lambda folder: publish_price_book(folder, "3"),
    "the whole folder rolled back, checkpoint and all": roll_back,
    "the whole log written anew and signed with its own key": write_anew,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_table_holds(change: str, written: Path, tmp_path: Path) -> None:
    folder = Folder(Path(shutil.copytree(written, tmp_path / "deployment")))
    CHANGES[change](folder)
    folder.log = log_folders(folder.data / "audit")[-1]
    assert {command: folder.finds(command) for command in COMMANDS} == table()[change]


def table() -> dict[str, dict[str, bool]]:
    """The table in the docs: change → command → whether it finds it."""
    lines = (ROOT / "docs" / "verification.md").read_text().splitlines()
    head = "| what was changed | " + " | ".join(f"`{command}`" for command in COMMANDS) + " |"
    rows: dict[str, dict[str, bool]] = {}
    for line in lines[lines.index(head) + 2 :]:
        if not line.startswith("|"):
            break
        change, *found = (cell.strip() for cell in line.strip("|").split("|"))
        assert all(re.fullmatch("yes|no", one) for one in found)
        rows[change] = dict(zip(COMMANDS, (one == "yes" for one in found), strict=True))
    return rows


def test_the_table_has_every_change_and_no_other() -> None:
    assert list(table()) == list(CHANGES)
