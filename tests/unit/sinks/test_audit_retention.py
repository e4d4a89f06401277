"""Old segments can be given up: what is left goes on being verified, extended and read; a hold keeps them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from meterproof_schemas.chain import LogChain
from meterproof_schemas.statement import Period
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_folder import follow_records, log_folder_name, records, segments_of, unexpected_files
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_retention import RetainedLog, RetentionRequest, give_up
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.commands.audit import main
from meterproof_sinks.commands.erase import main as erase
from meterproof_sinks.commands.prove import main as prove
from meterproof_sinks.commands.retain import main as retain_rows
from meterproof_sinks.commands.verify import main as verify
from meterproof_sinks.disk import Disk
from meterproof_sinks.event_search import events_with_id, records_of
from meterproof_sinks.given_up import GIVEN_UP_FILE, beginning_of, read_given_up
from meterproof_sinks.legal_holds import Hold, HoldError, LegalHolds
from meterproof_sinks.proving import CannotProve
from meterproof_sinks.segment_manifest import read_manifests
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.statement_maker import make_statement
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_memory import VerificationMemory
from tests.audit_upkeep import give_up_all
from tests.builders import NOW_MS, make_event
from tests.log_builder import LogBuilder, signed_pair
from tests.unit.sinks.faulty_disk import FaultyDisk, fail, struck_folders

SMALL = SegmentLimits(bytes_max=3_000)
EVER = NOW_MS + 10**9


def make() -> LogBuilder:
    log = LogBuilder()
    for size in (3, 4, 2, 5, 1, 4, 3, 2, 4, 3):
        log.batch(size)
    held = make_event("held", subject=log.agent, time_ms=log.clock_ms, data={"customer": "initech"})
    log.batch([held, *log.events(2)])
    for size in (5, 1, 4, 3, 2, 4, 3):
        log.batch(size)
    return log


LOG = make()
HELD = next(n for n, line in enumerate(x for _, r in LOG.records for x in r.lines) if b'"held"' in line)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    audit = tmp_path_factory.mktemp("data") / "audit"
    writer = AuditLog(folder_of(audit), LOG.origin, 0, limits=SMALL)
    writer.append(LOG.records)
    writer.take_checkpoints(signed_pair(LOG))
    while writer.seal_next():
        pass
    writer.close()
    assert len(read_manifests(folder_of(audit))) > 4
    return audit


@pytest.fixture
def audit(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "audit"))


def folder_of(audit: Path) -> Path:
    return audit / log_folder_name(LOG.origin)


def request(before_ms: int = EVER) -> RetentionRequest:
    return RetentionRequest(before_ms, "ops@example.com", "policy 7", NOW_MS)


def retained(audit: Path, *holds: Hold, before_ms: int = EVER, dry_run: bool = False) -> RetainedLog:
    if dry_run:
        return give_up(folder_of(audit), request(before_ms), holds, dry_run=True)
    return give_up_all(audit, request(before_ms), holds)[LOG.origin]


def hold(customer: str | None) -> Hold:
    return Hold("h1", customer, "2026-01-01T00:00:00.000Z", "legal", "case 12")


def lines(audit: Path) -> list[bytes]:
    return [line for _, record in records(folder_of(audit)) for line in record.lines]


ALL_LINES = [line for _, record in LOG.records for line in record.lines]


def test_what_is_old_goes_and_the_rest_verifies(audit: Path) -> None:
    manifests = read_manifests(folder_of(audit))
    third = manifests[2]
    done = retained(audit, before_ms=third.end.clock_ms + 1)
    assert (done.segments, done.events, done.kept_from) == (3, third.end.size, third.end.size)
    assert done.stopped_by is None
    assert done.bytes > 0
    gone = [Segment(folder_of(audit), one.first) for one in manifests[:3]]
    assert not any(path.exists() for one in gone for path in (one.sealed_events, one.sealed_records))
    assert all(one.manifest.exists() for one in gone)
    assert unexpected_files(folder_of(audit)) == []
    (noted,) = read_given_up(folder_of(audit))
    assert (noted.below, noted.segments, noted.by, noted.reason) == (third.end.size, 3, "ops@example.com", "policy 7")
    assert lines(audit) == ALL_LINES[third.end.size :]
    report = verify_folder(audit, [LOG.signer.verifier])
    assert report.holds, report.all_faults
    (log,) = report.logs
    assert (log.kept_from, log.events, log.covered) == (third.end.size, len(ALL_LINES), len(ALL_LINES))
    assert (log.records, log.records_covered) == (len(LOG.records), len(LOG.records))
    assert (log.tlog_size, log.records_tlog_size) == (len(ALL_LINES), len(LOG.records))


def test_a_second_time_goes_on_behind_the_first(audit: Path) -> None:
    manifests = read_manifests(folder_of(audit))
    for number in (0, 2):
        assert retained(audit, before_ms=manifests[number].end.clock_ms + 1).kept_from == manifests[number].end.size
    assert [one.segments for one in read_given_up(folder_of(audit))] == [1, 2]
    assert retained(audit, before_ms=manifests[2].end.clock_ms + 1).segments == 0
    assert verify_folder(audit, [LOG.signer.verifier]).holds


def test_a_dry_run_changes_nothing(audit: Path) -> None:
    before = {path: path.read_bytes() for path in audit.rglob("*") if path.is_file()}
    would = retained(audit, dry_run=True)
    assert {path: path.read_bytes() for path in audit.rglob("*") if path.is_file()} == before
    assert would == retained(audit)


def test_the_newest_sealed_segment_stays(audit: Path) -> None:
    done = retained(audit)
    assert done.stopped_by == "the newest sealed segment is always kept"
    assert done.kept_from == read_manifests(folder_of(audit))[-1].first


def test_what_no_checkpoint_covers_stays(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    writer = AuditLog(folder_of(audit), LOG.origin, 0, limits=SMALL)
    writer.append(LOG.records)
    writer.take_checkpoints(signed_pair(LOG, 4))
    while writer.seal_next():
        pass
    writer.close()
    done = retained(audit)
    assert done.stopped_by == "no published checkpoint covers it yet"
    assert 0 < done.kept_from <= signed_pair(LOG, 4).sizes[0]
    assert verify_folder(audit, [LOG.signer.verifier]).holds


def test_the_writer_goes_on_and_knows_the_checkpoints_of_before(audit: Path) -> None:
    retained(audit)
    log = make()
    for _ in range(9):
        log.batch(3)
    writer = AuditLog(folder_of(audit), LOG.origin, 0, limits=SMALL)
    for number in range(len(LOG.records)):
        writer.compare_checkpoints(signed_pair(LOG, number))
    assert writer.cursor is not None
    writer.append([one for one in log.records if one[0] > writer.cursor.log_offset])
    writer.take_checkpoints(signed_pair(log))
    while writer.seal_next():
        pass
    writer.close()
    report = verify_folder(audit, [LOG.signer.verifier])
    assert report.holds, report.all_faults
    assert report.logs[0].events == log.state.position


def test_lines_that_went_are_not_said_to_lead_to_a_signed_root_that_is_not_there(
    audit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retained(audit).kept_from > 0
    (key := tmp_path / "log.vkey").write_text(LOG.signer.verifier.vkey + "\n")
    said = "their entries are there and lead to the signed root"
    code, out, _ = run(capsys, verify, str(audit), "--vkey", str(key))
    assert (code, said in " ".join(out.split())) == (0, True)
    for tree in ("tlog", "records-tlog"):
        shutil.rmtree(folder_of(audit) / tree)
    for checkpoint in ("checkpoint", "records-checkpoint"):
        (folder_of(audit) / checkpoint).unlink()
    code, out, _ = run(capsys, verify, str(audit), "--vkey", str(key))
    out = " ".join(out.split())
    assert (code, said in out, "no signed root" in out) == (1, False, True)


def test_readers_begin_where_it_is_kept_from(audit: Path) -> None:
    kept_from = retained(audit).kept_from
    folder = folder_of(audit)
    chain = LogChain()
    followed = [record for _, record in follow_records(folder, chain)]
    assert followed == [record for _, record in LOG.records][-len(followed) :]
    assert (chain.genesis, chain.digest) == (LOG.genesis, LOG.state.digest)
    assert [number for number, _ in records_of(folder)] == list(range(len(LOG.records)))[-len(followed) :]
    names = [json.loads(line)["id"] for line in (ALL_LINES[0], ALL_LINES[-1])]
    assert [len(list(events_with_id(audit, name))) for name in names] == [0, 1]
    assert kept_from > 0


def test_an_earlier_run_is_resumed_behind_what_was_given_up(audit: Path) -> None:
    keys = [LOG.signer.verifier]
    memory = VerificationMemory()
    for due in (0, 1):
        report = verify_folder(audit, keys, memory=memory)
        assert report.holds, report.all_faults
        (log,) = report.logs
        assert log.verified is not None
        memory = VerificationMemory(logs={log.origin: log.verified})
        if not due:
            assert verify_folder(audit, keys, memory=memory).logs[0].resumed > 0
            retained(audit, before_ms=read_manifests(folder_of(audit))[1].end.clock_ms + 1)
            assert verify_folder(audit, keys, memory=memory).logs[0].resumed == 0
        else:
            assert verify_folder(audit, keys, memory=memory).logs[0].resumed > log.kept_from > 0


def test_what_may_have_been_given_up_is_not_taken_for_never_there(
    audit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept_from = retained(audit).kept_from
    code, _, err = run(capsys, prove, "e0", "--data", str(audit))
    assert (code, f"Positions below {kept_from} of {LOG.origin} were given up" in err) == (1, True)
    first, later = Period.parse("2026-01"), Period.parse("2026-02")
    with pytest.raises(CannotProve, match="may have been among them"):
        make_statement(audit, "initech", first, {})
    assert make_statement(audit, "initech", later, {}).logs[0].events == ()


# --- damage ---


def test_a_segment_that_is_missing_without_being_given_up_is_damage(audit: Path) -> None:
    folder = folder_of(audit)
    manifests = read_manifests(folder)
    retained(audit, before_ms=manifests[1].end.clock_ms + 1)
    segment = Segment(folder, manifests[2].first)
    segment.sealed_events.unlink()
    with pytest.raises(DamagedAudit):
        AuditLog(folder, LOG.origin, 0)
    segment.sealed_records.unlink()
    with pytest.raises(DamagedAudit):
        AuditLog(folder, LOG.origin, 0)
    assert not verify_folder(audit, [LOG.signer.verifier]).holds


@pytest.mark.parametrize("fault", ["removed", "lower", "between", "not whole", "spelled otherwise"])
def test_a_changed_note_of_what_was_given_up_is_damage(audit: Path, fault: str) -> None:
    folder = folder_of(audit)
    retained(audit)
    file = folder / GIVEN_UP_FILE
    good, one = file.read_bytes(), read_given_up(folder)[0]
    first = read_manifests(folder)[0].end
    bad = {
        "removed": b"",
        "lower": one.model_copy(update={"below": first.size, "records": first.records}).line,
        "between": one.model_copy(update={"below": one.below - 1}).line,
        "not whole": good[:-1],
        "spelled otherwise": good.replace(b":", b": ", 1),
    }[fault]
    file.write_bytes(bad)
    with pytest.raises(DamagedAudit):
        AuditLog(folder, LOG.origin, 0)
    assert not verify_folder(audit, [LOG.signer.verifier]).holds


@pytest.mark.parametrize("tree", ["tlog", "records-tlog"])
def test_what_is_left_of_given_up_lines_must_lead_to_the_signed_root(audit: Path, tree: str) -> None:
    retained(audit)
    bundle = next((folder_of(audit) / tree / "tile" / "entries").rglob("*.p/*"))
    good = bundle.read_bytes()
    bundle.write_bytes(good[:7] + bytes([good[7] ^ 1]) + good[8:])
    assert not verify_folder(audit, [LOG.signer.verifier]).holds
    bundle.unlink()
    assert not verify_folder(audit, [LOG.signer.verifier]).holds


def test_a_changed_manifest_of_a_given_up_segment_is_damage(audit: Path) -> None:
    retained(audit)
    folder = folder_of(audit)
    for number in (0, 1):
        manifest = Segment(folder, read_manifests(folder)[number].first).manifest
        good = manifest.read_bytes()
        manifest.write_bytes(good.replace(b'"lines":', b'"lines":1', 1))
        with pytest.raises(DamagedAudit):
            AuditLog(folder, LOG.origin, 0)
        assert not verify_folder(audit, [LOG.signer.verifier]).holds
        manifest.write_bytes(good)
    assert verify_folder(audit, [LOG.signer.verifier]).holds


@pytest.mark.parametrize("kill", [False, True], ids=["error", "kill"])
def test_after_a_fault_of_any_operation_all_holds_and_it_can_be_run_again(
    base: Path, tmp_path: Path, kill: bool
) -> None:
    def act(audit: Path, disk: Disk) -> None:
        give_up_all(audit, request(), (), disk=disk)

    at = 0
    for audit in struck_folders(base, tmp_path / "audit", act, kill=kill):
        assert verify_folder(audit, [LOG.signer.verifier]).holds
        AuditLog(folder_of(audit), LOG.origin, 0, limits=SMALL, disk=FaultyDisk(-1, fail)).close()
        give_up_all(audit, request(), (), disk=FaultyDisk(-1, fail))
        beginning = beginning_of(folder_of(audit))
        assert beginning is not None
        assert segments_of(folder_of(audit))[0].first == beginning.end.size
        assert verify_folder(audit, [LOG.signer.verifier]).holds
        at += 1
    assert at > 10


# --- holds ---


def test_a_hold_of_everything_keeps_everything(audit: Path) -> None:
    done = retained(audit, hold(None))
    assert (done.segments, done.kept_from) == (0, 0)
    assert "case 12" in str(done.stopped_by)


def test_a_hold_of_a_customer_keeps_its_first_segment_and_all_behind_it(audit: Path) -> None:
    due = max(one.first for one in read_manifests(folder_of(audit)) if one.first <= HELD)
    done = retained(audit, hold("initech"))
    assert done.kept_from == due > 0
    assert f"position {HELD}: hold h1 of customer 'initech'" in str(done.stopped_by)
    assert retained(audit, hold("nobody")).kept_from > due


def test_holds_are_kept_for_ever_and_lifted_by_name(tmp_path: Path) -> None:
    file = tmp_path / "holds.jsonl"
    holds = LegalHolds(file)
    assert holds.in_force == []
    first = holds.set("h1", "initech", by="legal", reason="case 12", now_ms=NOW_MS)
    second = holds.set("h2", None, by="legal", reason="audit", now_ms=NOW_MS)
    assert LegalHolds(file).in_force == [first, second]
    with pytest.raises(HoldError):
        holds.set("h1", None, by="me", reason="again", now_ms=NOW_MS)
    before = file.read_bytes()
    LegalHolds(file).lift("h1", by="legal", reason="closed", now_ms=NOW_MS)
    assert file.read_bytes().startswith(before)
    assert LegalHolds(file).in_force == [second]
    with pytest.raises(HoldError, match="no hold h1 is in force"):
        LegalHolds(file).lift("h1", by="legal", reason="again", now_ms=NOW_MS)
    file.write_bytes(before[:-3])
    with pytest.raises(HoldError, match="line 2"):
        LegalHolds(file)


# --- the commands ---


def run(
    capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], int], *arguments: str
) -> tuple[int, str, str]:
    code = command(list(arguments))
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_commands_tell_the_truth(audit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(audit.parent)
    who = ("--by", "legal@example.com", "--reason", "case 12", "--data", data)
    when = ("retain", "--before", "2999-01-01", *who)
    assert run(capsys, main, "hold", "list", "--data", data) == (0, "", "")
    code, out, _ = run(capsys, main, "hold", "add", "--customer", "initech", "--json", *who)
    name = json.loads(out)["hold"]
    assert code == 0
    assert run(capsys, main, "hold", "add", *who)[0] == 2
    code, out, _ = run(capsys, main, *when, "--dry-run", "--json")
    would = json.loads(out)["logs"][LOG.origin]
    assert (code, would["segments"] > 0, name in would["stopped_by"]) == (1, True, True)
    # Neither the customer nor an agent with events of it can be erased
    for whom in (("--customer", "initech"), ("--agent", LOG.agent)):
        code, _, err = run(capsys, erase, *whom, "--yes", *who)
        assert (code, "nothing was erased" in err, name in err) == (1, True, True)
    assert lines(audit) == ALL_LINES
    code, out, err = run(capsys, main, *when, "--yes")
    assert (code, "given up" in out, name in err) == (1, True, True)
    assert json.loads(run(capsys, main, "hold", "list", "--data", data, "--json")[1])[0]["customer"] == "initech"
    code, out, _ = run(capsys, main, "hold", "remove", name, "--json", *who)
    assert (code, json.loads(out)) == (0, {"lifted": name})
    assert run(capsys, main, "hold", "remove", name, *who)[0] == 1
    assert run(capsys, erase, "--customer", "initech", "--yes", *who)[0] == 0
    assert not any(b"initech" in line for line in lines(audit))
    assert run(capsys, main, "retain", "--before", "2000-01-01", "--yes", *who)[0] == 0
    assert run(capsys, main, "retain", "--before", "soon", "--yes", *who)[0] == 2
    assert verify_folder(audit, [LOG.signer.verifier]).holds


@pytest.mark.parametrize("option", ["--raw-days", "--minute-days"])
def test_more_days_than_a_calendar_has_are_wrong_usage(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retain_rows([option, str(10**14), "--data", str(tmp_path)]) == 2
    assert "less than or equal" in capsys.readouterr().err
