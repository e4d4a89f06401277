"""What commands ask of an audit folder is done by whoever writes it, once, whatever is cut off."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meterproof_schemas.event import entry_of
from meterproof_sinks.audit_errors import AuditDiskError
from meterproof_sinks.audit_folder import log_folder_name, records, unexpected_files
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_request import UpkeepRequest, outcome_of, pending_requests, put_request
from meterproof_sinks.audit_retention import RetentionRequest
from meterproof_sinks.audit_sink import AuditSink
from meterproof_sinks.audit_upkeep import LockedFolder, UpkeepFailed, ask, carry_out
from meterproof_sinks.commands.audit import main as audit_command
from meterproof_sinks.commands.erase import main as erase
from meterproof_sinks.disk import Disk
from meterproof_sinks.event_owner import Owner
from meterproof_sinks.given_up import beginning_of
from meterproof_sinks.legal_holds import HOLDS_FILE, Hold, LegalHolds
from meterproof_sinks.segment_manifest import read_manifests
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.verification import verify_folder
from tests.builders import NOW_MS, make_event
from tests.log_builder import LogBuilder, signed_pair
from tests.unit.sinks.faulty_disk import FaultyDisk, fail, struck_folders

SMALL = SegmentLimits(bytes_max=4_000)
BEGUN = 11
"""Records that are on disk before anything is asked; the writer is in the middle of a segment then."""
PATIENCE_S = 300.0


def make() -> LogBuilder:
    log = LogBuilder()
    for number in range(14):
        ours = make_event(f"i{number}", subject=log.agent, time_ms=log.clock_ms, data={"customer": "initech"})
        log.batch([ours, *log.events(2)] if number in {1, BEGUN - 2} else 3)
    return log


LOG = make()
LINES = [line for _, record in LOG.records for line in record.lines]
ERASE = UpkeepRequest(request="e" * 16, erase=Owner("customer", "initech"))
HOLD = Hold("h1", "initech", "2026-01-01T00:00:00.000Z", "legal", "case 12")


def retain(audit: Path, *holds: Hold) -> UpkeepRequest:
    second = read_manifests(folder_of(audit))[1]
    wanted = RetentionRequest(second.end.clock_ms + 1, "ops@example.com", "policy 7", NOW_MS)
    return UpkeepRequest(request="a" * 16, holds=holds, retain=wanted)


def folder_of(audit: Path) -> Path:
    return audit / log_folder_name(LOG.origin)


def written(audit: Path, disk: Disk | None = None) -> AuditLog:
    """The folder's writer, which is as far as `BEGUN` at least."""
    writer = AuditLog(folder_of(audit), LOG.origin, 0, limits=SMALL, disk=disk)
    go_on(writer, BEGUN)
    return writer


def go_on(writer: AuditLog, end: int) -> None:
    cursor = writer.cursor
    done = -1 if cursor is None else cursor.log_offset
    rest = [one for one in LOG.records[:end] if one[0] > done]
    for one in rest:
        writer.append([one])
    if rest:
        writer.take_checkpoints(signed_pair(LOG, end - 1))
    while writer.seal_next():
        pass


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    audit = tmp_path_factory.mktemp("data") / "audit"
    written(audit).close()
    assert len(read_manifests(folder_of(audit))) == 3
    return audit


@pytest.fixture
def audit(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "audit"))


@contextmanager
def serving(writer: AuditLog, holds_file: Path) -> Iterator[None]:
    """A writer that does what it is asked, as the sink's loop has it done, until the end; then it is closed."""
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            carry_out(writer, holds_file)
            done.wait(0.02)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        writer.close()


def lines_of(audit: Path) -> list[bytes]:
    return [line for _, record in records(folder_of(audit)) for line in record.lines]


def erased_until(end: int) -> list[bytes]:
    """The lines that the first so many records have when their events of the customer were erased."""
    lines = [line for _, record in LOG.records[:end] for line in record.lines]
    return [b'{"erased":"%s"}' % entry_of(line).hex().encode() if b'"initech"' in line else line for line in lines]


def check(audit: Path) -> None:
    report = verify_folder(audit, [LOG.signer.verifier])
    assert report.holds, report.all_faults
    assert unexpected_files(folder_of(audit)) == []
    assert pending_requests(folder_of(audit)) == []


def test_a_writer_that_runs_erases_and_goes_on(audit: Path) -> None:
    writer = written(audit)
    with serving(writer, audit.parent / HOLDS_FILE):
        (outcome,) = ask(audit, ERASE, audit.parent / HOLDS_FILE, patience_s=PATIENCE_S).values()
        due = sum(b'"initech"' in line for _, record in LOG.records[:BEGUN] for line in record.lines)
        assert outcome.erased == due > 0
        assert lines_of(audit) == erased_until(BEGUN)
        go_on(writer, len(LOG.records))
    assert lines_of(audit)[: len(erased_until(BEGUN))] == erased_until(BEGUN)
    assert lines_of(audit)[len(erased_until(BEGUN)) :] == LINES[len(erased_until(BEGUN)) :]
    check(audit)
    assert b"initech" not in (folder_of(audit) / "requests.jsonl").read_bytes()


def test_a_writer_that_runs_gives_up_and_goes_on(audit: Path) -> None:
    writer = written(audit)
    with serving(writer, audit.parent / HOLDS_FILE):
        (outcome,) = ask(audit, retain(audit), audit.parent / HOLDS_FILE, patience_s=PATIENCE_S).values()
        assert outcome.retained is not None
        assert (outcome.retained.segments, outcome.retained.stopped_by) == (2, None)
        beginning = beginning_of(folder_of(audit))
        assert beginning is not None
        assert outcome.retained.kept_from == beginning.end.size
        for number in range(BEGUN):  # what was signed before the kept segments is known by the tiles now
            writer.compare_checkpoints(signed_pair(LOG, number))
        go_on(writer, len(LOG.records))
    assert lines_of(audit) == LINES[beginning.end.size :]
    check(audit)
    written(audit).close()


def test_where_nobody_writes_the_command_does_it(audit: Path) -> None:
    (outcome,) = ask(audit, ERASE, audit.parent / HOLDS_FILE, patience_s=0).values()
    assert outcome == outcome_of(folder_of(audit), ERASE.request)
    assert lines_of(audit) == erased_until(BEGUN)
    check(audit)


def test_what_nobody_did_stays_asked_until_a_writer_comes(audit: Path) -> None:
    writer = written(audit)
    told: list[str] = []
    with pytest.raises(UpkeepFailed, match="It stays asked"):
        ask(audit, ERASE, audit.parent / HOLDS_FILE, patience_s=0, on_wait=lambda origin, _: told.append(origin))
    assert [one.request for one in pending_requests(folder_of(audit))] == [ERASE]
    writer.close()
    with serving(written(audit), audit.parent / HOLDS_FILE):
        # asking again waits for the same thing
        ask(audit, ERASE, audit.parent / HOLDS_FILE, patience_s=PATIENCE_S)
    assert lines_of(audit) == erased_until(BEGUN)
    check(audit)


def test_a_request_is_done_once_by_whoever_comes_first(audit: Path) -> None:
    other = UpkeepRequest(request="b" * 16, erase=Owner("agent", LOG.agent))
    put_request(folder_of(audit), other, Disk())
    (outcome,) = ask(audit, ERASE, audit.parent / HOLDS_FILE, patience_s=0).values()
    first = outcome_of(folder_of(audit), other.request)
    assert first is not None
    assert first.erased == sum(len(record.lines) for _, record in LOG.records[:BEGUN])
    assert outcome.erased == 0
    check(audit)


@pytest.mark.parametrize(("customer", "whose"), [("initech", "customer 'initech'"), (None, "everything")])
def test_a_hold_that_was_set_meanwhile_is_heeded(audit: Path, customer: str | None, whose: str) -> None:
    holds_file = audit.parent / HOLDS_FILE
    LegalHolds(holds_file).set("h2", customer, by="legal", reason="case 13", now_ms=NOW_MS)
    for request in (ERASE, UpkeepRequest(request="b" * 16, erase=Owner("agent", LOG.agent))):
        with pytest.raises(UpkeepFailed, match=f"hold h2 of {whose}"):
            ask(audit, request, holds_file, patience_s=0)
    (outcome,) = ask(audit, retain(audit), holds_file, patience_s=0).values()
    assert outcome.retained is not None
    assert (outcome.retained.segments, "h2" in str(outcome.retained.stopped_by)) == (0, True)
    assert lines_of(audit) == [line for _, record in LOG.records[:BEGUN] for line in record.lines]
    check(audit)


def test_a_hold_that_only_who_asks_knows_is_heeded(audit: Path) -> None:
    (outcome,) = ask(audit, retain(audit, HOLD), audit.parent / HOLDS_FILE, patience_s=0).values()
    assert outcome.retained is not None
    assert "case 12" in str(outcome.retained.stopped_by)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version":1,"request":"%s"}' % (b"c" * 16), b'{"version":2}'])
def test_what_is_no_request_ends_no_writer(audit: Path, content: bytes) -> None:
    put_request(folder_of(audit), ERASE, Disk())
    (folder_of(audit) / "requests" / f"{'c' * 16}.json").write_bytes(content)
    with serving(written(audit), audit.parent / HOLDS_FILE):
        ask(audit, ERASE, audit.parent / HOLDS_FILE, patience_s=PATIENCE_S)
    written(audit).close()
    keeper = LockedFolder(folder_of(audit), Disk())
    carry_out(keeper, audit.parent / HOLDS_FILE)
    keeper.release()
    outcome = outcome_of(folder_of(audit), "c" * 16)
    assert outcome is not None
    assert "does not say what is asked for" in str(outcome.failure)
    check(audit)


def test_what_cannot_be_read_ends_no_writer(audit: Path) -> None:
    put_request(folder_of(audit), ERASE, Disk())
    (folder_of(audit) / "requests" / f"{'c' * 16}.json").mkdir()  # as unreadable as another user's file
    with serving(written(audit), audit.parent / HOLDS_FILE):
        ask(audit, ERASE, audit.parent / HOLDS_FILE, patience_s=PATIENCE_S)
    written(audit).close()
    ask(audit, ERASE.model_copy(update={"request": "d" * 16}), audit.parent / HOLDS_FILE, patience_s=0)
    outcome = outcome_of(folder_of(audit), "c" * 16)
    assert outcome is not None
    assert "as the user of the audit sink" in str(outcome.failure)
    check(audit)


@pytest.mark.parametrize("kill", [False, True], ids=["error", "kill"])
@pytest.mark.parametrize("kind", ["erase", "retain"])
def test_after_a_fault_of_any_operation_a_writer_finishes_what_was_asked(
    base: Path, tmp_path: Path, kind: str, kill: bool
) -> None:
    holds_file = tmp_path / HOLDS_FILE

    def act(audit: Path, disk: Disk) -> None:
        quiet = FaultyDisk(-1, fail)
        request = ERASE if kind == "erase" else retain(audit)
        put_request(folder_of(audit), request, quiet)
        writer = written(audit, quiet)
        writer.disk = disk
        try:
            carry_out(writer, holds_file)
        finally:
            writer.close()

    at = 0
    for audit in struck_folders(base, tmp_path / "audit", act, kill=kill):
        assert verify_folder(audit, [LOG.signer.verifier]).holds
        writer = written(audit, FaultyDisk(-1, fail))
        carry_out(writer, holds_file)
        outcome = outcome_of(folder_of(audit), "e" * 16 if kind == "erase" else "a" * 16)
        assert outcome is not None
        if outcome.failure is not None:  # told as not done: it is asked for anew
            again = ERASE if kind == "erase" else retain(audit)
            put_request(folder_of(audit), again.model_copy(update={"request": "d" * 16}), FaultyDisk(-1, fail))
            carry_out(writer, holds_file)
        go_on(writer, len(LOG.records))
        writer.close()
        if kind == "erase":
            assert lines_of(audit)[: len(erased_until(BEGUN))] == erased_until(BEGUN)
        else:
            beginning = beginning_of(folder_of(audit))
            assert beginning is not None
            assert lines_of(audit) == LINES[beginning.end.size :]
        check(audit)
        at += 1
    assert at > 10


def test_a_writer_that_cannot_open_its_files_again_writes_no_more(audit: Path) -> None:
    class NoOpening(Disk):
        """Refuses to open what is there."""

        def open_append(self, path: Path) -> int:
            if path.name.endswith(".jsonl"):
                raise OSError(5, "Input/output error")
            return super().open_append(path)

    writer = written(audit)
    writer._segments._disk = NoOpening()
    put_request(folder_of(audit), ERASE, Disk())
    carry_out(writer, audit.parent / HOLDS_FILE)
    outcome = outcome_of(folder_of(audit), ERASE.request)
    assert outcome is not None
    assert "start the sink again" in str(outcome.failure)
    with pytest.raises(AuditDiskError, match="an earlier write failed"):
        go_on(writer, len(LOG.records))
    writer.close()
    with serving(written(audit), audit.parent / HOLDS_FILE):
        ask(audit, ERASE.model_copy(update={"request": "b" * 16}), audit.parent / HOLDS_FILE, patience_s=PATIENCE_S)
    assert lines_of(audit) == erased_until(BEGUN)
    check(audit)


def test_the_commands_wait_for_a_writer_and_tell_the_outcome(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    who = ["--by", "ops@example.com", "--reason", "policy 7", "--data", str(audit.parent), "--json", "--yes"]
    writer = written(audit)
    code = erase(["--customer", "initech", "--wait-s", "0", *who])
    told = capsys.readouterr()
    assert (code, "It stays asked" in told.err, "Traceback" in told.err) == (1, True, False)
    with serving(writer, audit.parent / HOLDS_FILE):
        code = erase(["--customer", "initech", *who])
        told = capsys.readouterr()
        assert (code, json.loads(told.out)["audit"]) == (0, {LOG.origin: 0}), "it had been asked before"
        code = audit_command(["retain", "--before", "2999-01-01", *who])
        told = capsys.readouterr()
        done = json.loads(told.out)["logs"][LOG.origin]
        assert (code, done["segments"] > 0, done["stopped_by"]) == (1, True, "the newest sealed segment is always kept")
    assert not any(b"initech" in line for line in lines_of(audit))
    check(audit)


async def test_the_sink_does_it_between_two_writes(tmp_path: Path) -> None:
    sink = AuditSink(tmp_path / "audit", limits=SMALL)
    stop = asyncio.Event()
    holds_file = tmp_path / HOLDS_FILE
    parts = (sink.publish_until(stop), sink.seal_until(stop), sink.carry_out_until(stop, holds_file))
    beside = [asyncio.create_task(part) for part in parts]
    await sink.cursor(0)
    await sink.write(0, LOG.genesis, LOG.records[:BEGUN])
    asked = asyncio.create_task(asyncio.to_thread(ask, tmp_path / "audit", ERASE, holds_file, patience_s=PATIENCE_S))
    async with asyncio.timeout(PATIENCE_S):
        for one in LOG.records[BEGUN:]:
            await sink.write(0, LOG.genesis, [one])
        outcome = (await asked)[LOG.origin]
    signed = signed_pair(LOG)
    assert signed.records is not None
    sink.offer_checkpoints(signed.events.note, signed.records.note)
    stop.set()
    await asyncio.gather(*beside)
    await sink.close()
    assert outcome.erased == sum(b'"initech"' in line for line in LINES)
    assert lines_of(tmp_path / "audit") == erased_until(len(LOG.records))
    check(tmp_path / "audit")


def test_a_second_outcome_is_told_beside_the_first(audit: Path) -> None:
    for name in ("a" * 16, "b" * 16):
        outcome = ask(audit, ERASE.model_copy(update={"request": name}), audit.parent / HOLDS_FILE, patience_s=0)
        assert outcome_of(folder_of(audit), name) == outcome[LOG.origin]
    assert outcome_of(folder_of(audit), "c" * 16) is None
    assert len((folder_of(audit) / "requests.jsonl").read_bytes().splitlines()) == 2


def test_a_request_by_a_part_of_another_ones_name_is_not_taken_for_it(audit: Path) -> None:
    ask(audit, ERASE, audit.parent / HOLDS_FILE, patience_s=0)
    (folder_of(audit) / "requests" / f"{ERASE.request[:8]}.json").write_bytes(b"{}")
    other = ERASE.model_copy(update={"request": "d" * 16})
    ask(audit, other, audit.parent / HOLDS_FILE, patience_s=0)
    assert outcome_of(folder_of(audit), ERASE.request[:4]) is None
    outcome = outcome_of(folder_of(audit), ERASE.request[:8])
    assert outcome is not None
    assert "does not say what is asked for" in str(outcome.failure)
