"""`meterproof audit ship|fetch`: the copy holds at every moment, goes on where it ended, and never changes its mind."""

import asyncio
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import obstore
import pytest

from meterproof_schemas.event import entry_of
from meterproof_schemas.price_book import encode_price_book
from meterproof_sinks.audit_copy import copy_audit
from meterproof_sinks.audit_events import kept_events
from meterproof_sinks.audit_fetch import fetch_audit
from meterproof_sinks.audit_folder import log_folder_name, records
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_retention import RetentionRequest
from meterproof_sinks.audit_ship import ship
from meterproof_sinks.commands.audit import main as audit
from meterproof_sinks.disk import Disk
from meterproof_sinks.object_store import ObjectDiffers, ObjectStore, StoreProblem, StoreUnavailable
from meterproof_sinks.price_book_folder import keep_price_book
from meterproof_sinks.segment_manifest import read_manifests
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_report import FolderReport
from tests.audit_upkeep import erase_lines, give_up_all
from tests.log_builder import LogBuilder, signed_pair
from tests.rated_log import BOOKS

BOOK = encode_price_book(BOOKS[1])
SMALL = SegmentLimits(bytes_max=25_000)


def grow(audit: Path, log: LogBuilder, batches: int) -> None:
    """Write so many more records of 40 events, each with its checkpoints, and seal what has ended."""
    writer = AuditLog(audit / log_folder_name(log.origin), log.origin, log.partition, limits=SMALL)
    try:
        for number in range(batches):
            if number or log.state.position:
                log.batch(40)
            cursor = writer.cursor
            writer.append([one for one in log.records if cursor is None or one[0] > cursor.log_offset])
            writer.take_checkpoints(signed_pair(log))
        while writer.seal_next():
            pass
    finally:
        writer.close()


class Deployment:
    """An audit folder of one log, and the store that its copy is in."""

    def __init__(self, folder: Path) -> None:
        self.audit = folder / "audit"
        self.log = LogBuilder()
        self.log.batch(3)
        grow(self.audit, self.log, 14)
        assert keep_price_book(self.audit, BOOK, Disk())
        self.url = str(folder / "copy")
        self.mine = self.audit / log_folder_name(self.log.origin)

    @property
    def sealed(self) -> int:
        """Events in sealed segments."""
        return read_manifests(self.mine)[-1].end.size

    def verify(self, folder: Path) -> FolderReport:
        report = verify_folder(folder, [self.log.signer.verifier])
        assert report.holds, report.all_faults
        return report


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    deployment = Deployment(tmp_path_factory.mktemp("made"))
    assert len(read_manifests(deployment.mine)) >= 3
    assert deployment.sealed > 256
    return deployment


@pytest.fixture
def deployment(made: Deployment, tmp_path: Path) -> Deployment:
    """One of its own."""
    own = Deployment.__new__(Deployment)
    own.__dict__ |= made.__dict__
    own.log = LogBuilder.resumed(made.log.records)
    own.audit = Path(shutil.copytree(made.audit, tmp_path / "audit"))
    own.mine = own.audit / made.mine.name
    own.url = str(tmp_path / "copy")
    return own


class Killed(BaseException):
    """Stands for the end of the process."""


def dies_at(number: int) -> Callable[[int], None]:
    """Told of each object that was written, die at this one."""
    left = number

    def count(_: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    return count


def test_the_copy_is_an_audit_folder_of_what_is_sealed(deployment: Deployment, tmp_path: Path) -> None:
    copied = copy_audit(deployment.audit, ObjectStore(deployment.url))
    (log,) = copied.logs.values()
    assert (log.events, log.sealed) == (deployment.sealed, len(read_manifests(deployment.mine)))
    assert 0 < log.covered <= log.events
    assert log.only_here == deployment.log.state.position - deployment.sealed > 0
    fetched = fetch_audit(ObjectStore(deployment.url), tmp_path / "back")
    assert fetched.files == copied.objects
    for folder in (Path(deployment.url), tmp_path / "back"):
        (report,) = deployment.verify(folder).logs
        assert (report.events, report.covered) == (log.events, log.covered)
        assert report.tlog_size == log.covered
        mine = list(records(folder / deployment.mine.name))
        assert mine == deployment.log.records[: len(mine)]
        assert (folder / "prices" / "1.json").read_bytes() == BOOK
    assert copy_audit(deployment.audit, ObjectStore(deployment.url)).objects == 0
    assert fetch_audit(ObjectStore(deployment.url), tmp_path / "back").files == 0


def test_whatever_object_it_is_killed_at_what_is_there_holds_and_the_next_run_finishes(
    deployment: Deployment, tmp_path: Path
) -> None:
    store = ObjectStore("memory:///")
    whole = copy_audit(deployment.audit, ObjectStore(deployment.url)).objects
    grow(deployment.audit, deployment.log, 8)
    covered, runs, copied = 0, 0, None
    while copied is None:
        runs += 1
        assert runs < 200
        with suppress(Killed):
            copied = copy_audit(deployment.audit, store, dies_at(1))
        back = tmp_path / f"back-{runs}"
        try:
            fetched = fetch_audit(store, back)
        except StoreProblem:  # nothing that counts is there before the first manifest
            assert runs < 5
            continue
        (report,) = verify_folder(back, [deployment.log.signer.verifier]).logs
        assert report.holds, report.faults
        assert report.covered >= covered
        assert fetched.covered[deployment.log.origin] == (covered := report.covered)
        shutil.rmtree(back)
    assert runs > whole > 20
    (log,) = copied.logs.values()
    assert covered == log.covered
    assert log.events == deployment.sealed


def test_a_copy_grows_with_the_folder(deployment: Deployment, tmp_path: Path) -> None:
    store = ObjectStore(deployment.url)
    before = copy_audit(deployment.audit, store)
    grow(deployment.audit, deployment.log, 8)
    after = copy_audit(deployment.audit, store)
    (was,), (now,) = before.logs.values(), after.logs.values()
    assert now.sealed > was.sealed
    assert now.covered > was.covered
    assert after.objects < before.objects + 10
    deployment.verify(Path(deployment.url))
    fetch_audit(store, tmp_path / "back")
    deployment.verify(tmp_path / "back")


def test_a_sink_goes_on_behind_what_was_brought_back(deployment: Deployment, tmp_path: Path) -> None:
    copy_audit(deployment.audit, ObjectStore(deployment.url))
    fetch_audit(ObjectStore(deployment.url), tmp_path / "audit-again")
    grow(tmp_path / "audit-again", deployment.log, 3)
    mine = tmp_path / "audit-again" / deployment.mine.name
    assert list(records(mine)) == deployment.log.records
    deployment.verify(tmp_path / "audit-again")


def objects_of(deployment: Deployment) -> list[Path]:
    return sorted(path for path in Path(deployment.url).rglob("*") if path.is_file())


def changed(path: Path) -> bytes:
    """Change one bit of a file, and return its content."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("ends_at", "which"),
    [
        (1, "prices/1.json"),
        (3, "*/*0.jsonl.zst"),
        (4, "*/*0.records.jsonl.zst"),
        (5, "*/*0.manifest.json"),
        (1_000, "*/*.manifest.json"),
        (1_000, "*/tlog/checkpoint"),
        (1_000, "prices/1.json"),
    ],
)
def test_what_is_there_with_other_content_stops_the_run_and_is_not_overwritten(
    deployment: Deployment, capfd: pytest.CaptureFixture[str], ends_at: int, which: str
) -> None:
    with suppress(Killed):
        copy_audit(deployment.audit, ObjectStore(deployment.url), dies_at(ends_at))
    path = max(Path(deployment.url).glob(which))
    content = changed(path)
    before = {one: one.read_bytes() for one in objects_of(deployment)}
    assert audit(["ship", deployment.url, "--folder", str(deployment.audit)]) == 78
    assert path.name in capfd.readouterr().err
    assert path.read_bytes() == content
    assert before.items() <= {one: one.read_bytes() for one in objects_of(deployment)}.items()


def test_what_is_damaged_in_the_copy_does_not_come_back(
    deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy_audit(deployment.audit, ObjectStore(deployment.url))
    for number, which in enumerate(("*/*.jsonl.zst", "*/*.records.jsonl.zst", "*/*.manifest.json")):
        path = min(Path(deployment.url).glob(which))
        good = path.read_bytes()
        changed(path)
        assert audit(["fetch", deployment.url, str(tmp_path / f"back-{number}")]) == 78
        assert path.name in capfd.readouterr().err
        path.unlink()
        assert audit(["fetch", deployment.url, str(tmp_path / f"less-{number}")]) != 0
        path.write_bytes(good)
    tile = min(Path(deployment.url).glob("*/tlog/tile/0/000"))
    tile.unlink()
    assert audit(["fetch", deployment.url, str(tmp_path / "no-tile")]) == 78
    assert "is missing" in capfd.readouterr().err


@pytest.mark.parametrize("replaces", [False, True])
def test_what_is_not_read_back_as_it_was_written_is_told(monkeypatch: pytest.MonkeyPatch, replaces: bool) -> None:
    """Of an object that never changes, and of one that may: a store that takes it and keeps something else."""
    store, put = ObjectStore("memory:///"), obstore.put
    monkeypatch.setattr(obstore, "put", lambda kept, name, content, **how: put(kept, name, content[:-1], **how))
    with pytest.raises(ObjectDiffers, match="log/checkpoint has SHA-256"):
        (store.replace if replaces else store.put)("log/checkpoint", b"signed")


def test_a_folder_with_another_history_is_refused(deployment: Deployment, capfd: pytest.CaptureFixture[str]) -> None:
    copy_audit(deployment.audit, ObjectStore(deployment.url))
    shutil.rmtree(deployment.mine)
    other = LogBuilder()
    other.batch(4)
    grow(deployment.audit, other, 14)
    before = {path: path.read_bytes() for path in objects_of(deployment)}
    assert audit(["ship", deployment.url, "--folder", str(deployment.audit)]) == 78
    assert "Nothing was overwritten" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in objects_of(deployment)} == before


def test_what_is_erased_here_is_erased_there_whatever_it_is_killed_at(deployment: Deployment, tmp_path: Path) -> None:
    store = ObjectStore(deployment.url)
    copy_audit(deployment.audit, store)
    for number in (2, 3):
        line = deployment.log.records[number][1].lines[3]
        assert erase_lines(deployment.audit, line.__eq__)[deployment.log.origin]
        copied = None
        while copied is None:
            with suppress(Killed):
                copied = copy_audit(deployment.audit, store, dies_at(1))
            shutil.rmtree(tmp_path / "back", ignore_errors=True)
            fetch_audit(store, tmp_path / "back")
            deployment.verify(tmp_path / "back")
        for folder in (Path(deployment.url), tmp_path / "back"):
            assert deployment.verify(folder).logs[0].erased == number - 1
            assert audit(["grep", "--digest", entry_of(line).hex(), "--count", "--data", str(folder)]) == 0
            assert not any(event.line == line for event in kept_events(folder))
    assert copy_audit(deployment.audit, store).objects == 0
    newest = max(Path(deployment.url).glob("*/*.erasures.jsonl"))
    newest.write_bytes(newest.read_bytes().replace(b'"lines":', b'"limes":') + b"x")
    with pytest.raises(ObjectDiffers, match="other erasures"):
        copy_audit(deployment.audit, store)


def test_a_folder_that_a_sink_writes_is_not_fetched_into(deployment: Deployment) -> None:
    copy_audit(deployment.audit, ObjectStore(deployment.url))
    writer = AuditLog(deployment.mine, deployment.log.origin, 0, limits=SMALL)
    try:
        assert audit(["fetch", deployment.url, str(deployment.audit)]) == 1
    finally:
        writer.close()


def give_up_first(deployment: Deployment, segments: int) -> None:
    before_ms = read_manifests(deployment.mine)[segments - 1].end.clock_ms + 1
    request = RetentionRequest(before_ms, "ops@example.com", "policy", before_ms)
    assert give_up_all(deployment.audit, request, ())[deployment.log.origin].segments == segments


def test_what_is_given_up_here_stays_there(deployment: Deployment, tmp_path: Path) -> None:
    store = ObjectStore(deployment.url)
    copy_audit(deployment.audit, store)
    give_up_first(deployment, 2)
    assert copy_audit(deployment.audit, store).objects == 0
    fetch_audit(store, tmp_path / "back")
    (report,) = deployment.verify(tmp_path / "back").logs
    assert (report.kept_from, report.events) == (0, deployment.sealed)


def test_what_was_given_up_before_is_said_to_be_in_the_copy_whatever_it_is_killed_at(
    deployment: Deployment, tmp_path: Path
) -> None:
    store, copied = ObjectStore(deployment.url), None
    with suppress(Killed):
        copy_audit(deployment.audit, store, dies_at(6))  # the first segment is there, the next two never will be
    give_up_first(deployment, 3)
    runs, kept = 0, 0
    while copied is None:
        runs += 1
        assert runs < 200
        with suppress(Killed):
            copied = copy_audit(deployment.audit, store, dies_at(1))
        shutil.rmtree(tmp_path / "back", ignore_errors=True)
        with suppress(StoreProblem):
            fetch_audit(store, tmp_path / "back")
            (report,) = verify_folder(tmp_path / "back", [deployment.log.signer.verifier]).logs
            assert report.holds, report.faults
            kept = report.kept_from
    assert kept == read_manifests(deployment.mine)[2].end.size
    deployment.verify(tmp_path / "back")


def test_commands_say_what_they_did(deployment: Deployment, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert audit(["ship", deployment.url, "--folder", str(deployment.audit), "--json"]) == 0
    shipped = json.loads(capfd.readouterr().out)
    (log,) = shipped["logs"].values()
    assert (log["events"], log["only_here"]) == (deployment.sealed, deployment.log.state.position - deployment.sealed)
    assert audit(["fetch", deployment.url, str(tmp_path / "back"), "--json"]) == 0
    fetched = json.loads(capfd.readouterr().out)
    assert fetched["files"] == shipped["objects"]
    assert audit(["fetch", str(tmp_path / "nothing"), str(tmp_path / "none")]) == 1
    assert audit(["ship", "s3://user:secret@bucket", "--folder", str(deployment.audit)]) == 1
    told = capfd.readouterr().err
    assert "secret" not in told
    assert "environment" in told
    assert audit(["ship", deployment.url, "--folder", str(tmp_path / "nowhere")]) == 2


class AwayTwice(ObjectStore):
    """A store that does not answer the first two times that it is asked."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.refusals = 2

    def names(self, folder: str) -> dict[str, int]:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable("it is away")
        return super().names(folder)


async def test_the_worker_waits_for_a_store_that_is_away_and_copies_what_is_sealed_later(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterproof_sinks.audit_ship._FIRST_PAUSE_S", 0.01)
    stop = asyncio.Event()
    shown: list[dict[str, Any]] = []

    class Status:
        def write(self, status: dict[str, Any]) -> None:
            shown.append(status)

    store = AwayTwice(deployment.url)
    working = asyncio.create_task(ship(deployment.audit, store, status=Status(), stop=stop, interval_s=0.01))

    async def until_copied(events: int) -> None:
        while not any(log["events"] >= events for log in shown[-1]["logs"].values()):
            assert not working.done()
            await asyncio.sleep(0.01)

    async with asyncio.timeout(120):
        await asyncio.sleep(0)
        await until_copied(deployment.sealed)
        assert any(status["slow"] == ["it is away"] for status in shown)
        before = deployment.sealed
        await asyncio.to_thread(grow, deployment.audit, deployment.log, 8)
        assert deployment.sealed > before
        await until_copied(deployment.sealed)
        stop.set()
        await working
    assert shown[-1]["state"] == "stopped"
    assert shown[-1]["attempts"] == 2


async def test_the_worker_ends_for_a_person_when_the_copy_differs(deployment: Deployment) -> None:
    store = ObjectStore(deployment.url)
    copy_audit(deployment.audit, store)
    newest = [path for path in objects_of(deployment) if path.name.endswith(".manifest.json")][-1]
    newest.write_bytes(newest.read_bytes().replace(b'"number":', b'"nomber":'))
    shown: list[dict[str, Any]] = []

    class Status:
        def write(self, status: dict[str, Any]) -> None:
            shown.append(status)

    with pytest.raises(ObjectDiffers, match=newest.name):
        await ship(deployment.audit, store, status=Status(), stop=asyncio.Event(), interval_s=1)
    assert shown[-1]["state"] == "failed"


@pytest.mark.parametrize("url", ["ftp://a/b", "s3:/x", "file:///dev/null"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(StoreProblem, match=rf"{url}: .*s3://bucket/prefix"):
        ObjectStore(url)
