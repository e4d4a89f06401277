"""Segments of one log that are followed at the same time: the report is that of one pass, whatever there is to find."""

import pickle
import random
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
import pytest

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from meterproof_sinks.audit_folder import segments_of
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.log_verification import LogVerification, verify_log
from meterproof_sinks.remembered_checkpoints import RememberedCheckpoint
from meterproof_sinks.segment_manifest import read_manifest
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.verification import bytes_to_check, verify_folder
from meterproof_sinks.verification_inputs import Producers, VerificationInputs
from meterproof_sinks.verification_memory import VerificationMemory
from meterproof_sinks.verification_pool import VerificationPool
from tests import zstd
from tests.builders import make_registry
from tests.log_builder import LogBuilder, signed_pair

LIMITS = SegmentLimits(bytes_max=90_000, age_ms=1_000_000)


def _log() -> LogBuilder:
    """Some 2,000 events; segments begin and end within tiles and at their edges, one holds less than a tile."""
    log, draw = LogBuilder(), random.Random(3)
    log.batch(256)
    log.batch(1, after_ms=LIMITS.age_ms)
    log.batch(40, after_ms=LIMITS.age_ms)
    while log.state.position < 2_000:
        log.batch(draw.choice((1, 40, 128, 200)), after_ms=1)
    log.hole()
    return log


LOG = _log()
PRODUCERS = Producers(make_registry(LOG.key), frozenset())
MIDDLE = len(LOG.records) // 2


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "log"
    writer = AuditLog(folder, LOG.origin, LOG.partition, limits=LIMITS)
    writer.append(LOG.records)
    writer.take_checkpoints(signed_pair(LOG, -3))
    while writer.seal_next():
        pass
    writer.close()
    sizes = [read_manifest(one).end.size for one in segments_of(folder) if one.is_sealed]
    assert len(sizes) >= 4
    assert sizes[:2] == [256, 257]
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(written, tmp_path / "log"))


class PoolInThisProcess(VerificationPool):
    """Does at once what it is given, on copies, as processes do."""

    def submit(self, work: Any, item: Any) -> Any:
        found: Future[Any] = Future()
        inputs = pickle.loads(pickle.dumps(self.given))  # noqa: S301 - our own
        found.set_result(pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(item)), inputs, self.told.append))))  # noqa: S301
        return found

    def __init__(self, inputs: VerificationInputs) -> None:
        super().__init__(2, inputs, None)
        self.given = inputs
        self.told: list[int] = []


def inputs_of(*remembered: RememberedCheckpoint, memory: VerificationMemory | None = None) -> VerificationInputs:
    return VerificationInputs([LOG.signer.verifier], PRODUCERS, remembered, memory, remember=memory is not None)


@pytest.fixture
def followed_here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """First positions of the segments that the pass itself followed."""
    firsts: list[int] = []
    follow = LogVerification._follow_segment

    def noted(self: LogVerification, segment: Segment, *arguments: Any, **named: Any) -> tuple[str, str]:
        firsts.append(segment.first)
        return follow(self, segment, *arguments, **named)

    monkeypatch.setattr(LogVerification, "_follow_segment", noted)
    return firsts


def both(folder: Path, inputs: VerificationInputs) -> tuple[dict[str, object], dict[str, object]]:
    """What one pass finds, and what several processes do."""
    alone = verify_log(folder, inputs)
    together = verify_log(folder, inputs, None, PoolInThisProcess(inputs))
    assert alone.verified == together.verified
    return alone.as_json(), together.as_json()


def test_processes_find_what_one_pass_finds(written: Path, followed_here: list[int]) -> None:
    told: list[int] = []
    (alone,) = verify_folder(written, [LOG.signer.verifier], PRODUCERS).logs
    assert followed_here == [one.first for one in segments_of(written)]
    followed_here.clear()
    (together,) = verify_folder(written, [LOG.signer.verifier], PRODUCERS, told.append, jobs=2).logs
    assert followed_here == [0]
    assert together.holds, together.faults
    assert together.as_json() == alone.as_json()
    assert sum(told) == sum(len(record.value) for _, record in LOG.records) < bytes_to_check(written) < 1.1 * sum(told)


def test_every_checkpoint_kept_is_compared(written: Path) -> None:
    kept = [
        RememberedCheckpoint(Path(str(number)), signed.checkpoint)
        for number in range(1, len(LOG.records))
        for pair in [signed_pair(LOG, number)]
        for signed in (pair.events, pair.records)
        if signed is not None
    ]
    alone, together = both(written, inputs_of(*kept))
    assert together == alone
    assert together["holds"]
    middle = signed_pair(LOG, MIDDLE).events.checkpoint
    other = RememberedCheckpoint(Path("fork"), Checkpoint(middle.origin, middle.size, bytes(32)))
    alone, together = both(written, inputs_of(*kept, other))
    assert together == alone
    assert not together["holds"]


def test_a_later_run_goes_on_behind_them(written: Path, followed_here: list[int]) -> None:
    inputs = inputs_of(memory=VerificationMemory())
    first = verify_log(written, inputs, None, PoolInThisProcess(inputs))
    assert first.verified is not None
    followed_here.clear()
    known = VerificationMemory(logs={LOG.origin: first.verified})
    again = verify_log(written, inputs_of(memory=known), None, PoolInThisProcess(inputs))
    assert again.holds
    assert again.resumed == segments_of(written)[-1].first
    assert followed_here == [again.resumed]


# --- what does not hold ---


def flip(path: str, at: int = 40) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        content[at] ^= 1
        (folder / path).write_bytes(content)

    return change


def remove(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


def remove_segment(folder: Path) -> None:
    for file in folder.glob(f"{segments_of(folder)[1].first:020}.*"):
        file.unlink()


def flip_line(folder: Path) -> None:
    """A bit of an event line of a sealed segment in the middle."""
    file = segments_of(folder)[3].sealed_events
    content = bytearray(zstd.decompress(file.read_bytes()))
    content[5_000] ^= 1
    file.write_bytes(zstd.compress(bytes(content)))


def restate(number: int, **changes: object) -> Callable[[Path], None]:
    """Another end in a manifest, in the spelling of manifests."""

    def change(folder: Path) -> None:
        segment = segments_of(folder)[number]
        stated = orjson.loads(segment.manifest.read_bytes())
        stated["end"] |= changes
        segment.manifest.write_bytes(orjson.dumps(stated, option=orjson.OPT_APPEND_NEWLINE))

    return change


def sign_another(folder: Path) -> None:
    old = open_checkpoint((folder / "checkpoint").read_bytes(), [LOG.signer.verifier])
    other = sign_checkpoint(Checkpoint(old.origin, old.size, bytes(32)), [LOG.signer])
    for path in (folder / "checkpoint", folder / "tlog/checkpoint"):
        path.write_bytes(other)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a line": flip_line,
    "the first manifest's clock": restate(0, clock_ms=1),
    "a manifest's digest of the last record": restate(1, digest="00" * 32),
    "a manifest's end": restate(2, next_source_offset=0),
    "a compressed file": lambda folder: flip(segments_of(folder)[1].sealed_records.name)(folder),
    "a segment out": remove_segment,
    "a full tile": flip("tlog/tile/0/003"),
    "the tile that two segments share": flip("tlog/tile/0/001", 8_000),
    "a bundle": flip("tlog/tile/entries/005"),
    "a tile missing": remove("tlog/tile/0/004"),
    "a byte behind a tile": lambda folder: (folder / "tlog/tile/0/004").open("ab").write(b"x"),
    "a tile too many": lambda folder: (folder / "tlog/tile/0/040").write_bytes(bytes(8_192)),
    "the top": lambda folder: flip(next((folder / "tlog/tile/1/000.p").iterdir()).relative_to(folder).as_posix())(
        folder
    ),
    "the second tree": lambda folder: flip(
        next((folder / "records-tlog/tile/0/000.p").iterdir()).relative_to(folder).as_posix()
    )(folder),
    "another root, signed": sign_another,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_hold_is_told_as_by_one_pass(folder: Path, change: str) -> None:
    CHANGES[change](folder)
    alone, together = both(folder, inputs_of())
    assert not alone["holds"]
    assert together == alone
