"""`meterproof verify` with what somebody kept from before: checkpoints, and what an earlier run found true."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.note import Signer, Verifier
from meterproof_schemas.event import entry_of
from meterproof_sinks.audit_folder import segments_of
from meterproof_sinks.commands.verify import main
from meterproof_sinks.erased import erased_line
from meterproof_sinks.remembered_checkpoints import load_remembered
from meterproof_sinks.segment_reader import lines_digests
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_inputs import load_producers
from meterproof_sinks.verification_memory import VerificationMemory, VerifiedLog
from meterproof_sinks.verification_report import FolderReport
from tests.builders import make_registry_file
from tests.log_builder import LogBuilder, make_log
from tests.published_log import SEED, publish, vkey_of


def _grown(log: LogBuilder) -> LogBuilder:
    """With more than one full tile of events and several records of one event each."""
    for count in (300, 1, 1, 200, 1, 40):
        log.batch(count)
    return log


LOGS = [_grown(make_log(partition=number, partitions=2)) for number in range(2)]
SEGMENT_RECORDS = 4


def write(data: Path, logs: list[LogBuilder], **publishing: int) -> Path:
    for log in logs:
        publish(data / "audit", log, segment_records=SEGMENT_RECORDS, **publishing)
    (data / "keys").mkdir(exist_ok=True)
    (data / "keys" / "log.vkey").write_text("\n".join(map(vkey_of, LOGS)) + "\n")
    (data / "keys" / "registry.json").write_bytes(make_registry_file(LOGS[0].key))
    return data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"), LOGS)


@pytest.fixture
def data(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "data"))


def log_of(data: Path) -> Path:
    return next(path for path in sorted((data / "audit").iterdir()) if path.name.endswith("p0"))


def verify(data: Path, *more: str) -> int:
    return main([str(data), "--vkey", str(data / "keys"), *more])


# --- checkpoints from before ---


@pytest.mark.parametrize("records", [2, 5, 9, None])
@pytest.mark.parametrize("tree", ["checkpoint", "records-checkpoint"])
def test_a_log_that_grew_out_of_it_holds(data: Path, tmp_path: Path, records: int | None, tree: str) -> None:
    kept = publish(tmp_path / "kept", LOGS[0], records) / tree
    assert verify(data, "--since", str(kept)) == 0


def test_a_folder_rolled_back_with_its_checkpoint_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = publish(tmp_path / "kept", LOGS[0])
    young = LogBuilder(partitions=2)
    young.records = LOGS[0].records[:9]
    data = write(tmp_path / "data", [young])
    assert verify(data) == 0
    capsys.readouterr()
    for tree in ("checkpoint", "records-checkpoint"):
        assert verify(data, "--since", str(kept / tree)) == 1
        assert ": rolled back" in capsys.readouterr().err


def test_a_log_that_was_written_anew_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the same key, under the same name, longer, and whole in itself."""
    kept = publish(tmp_path / "kept", LOGS[0], 9)
    other = LogBuilder(partitions=2)
    for record in LOGS[0].records[1:3]:
        other.batch(record[1].header.accepted)
    for _ in range(20):
        other.batch(30)
    data = write(tmp_path / "data", [other])
    assert verify(data) == 0
    assert verify(data, "--since", str(kept / "checkpoint")) == 1
    said = capsys.readouterr().err
    assert "a fork" in said or "not the end of any record" in said
    assert verify(data, "--since", str(kept / "records-checkpoint")) == 1
    assert "a fork" in capsys.readouterr().err


def test_a_log_that_is_gone_is_seen(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(log_of(data) / "checkpoint", kept)
    assert verify(data, "--since", str(kept)) == 0
    shutil.rmtree(log_of(data))
    assert verify(data, "--since", str(kept)) == 1
    assert "which is not in the folder" in capsys.readouterr().err


def test_a_folder_without_a_kept_checkpoint_is_no_measure(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").mkdir()
    assert verify(data, "--since", str(tmp_path / "kept")) == 2
    assert "kept: holds no checkpoint" in capsys.readouterr().err


def test_a_checkpoint_that_nobody_signed_is_no_measure(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = tmp_path / "forged"
    forged.write_bytes((log_of(data) / "checkpoint").read_bytes().replace(b"/p0\n", b"/p1\n", 1))
    assert verify(data, "--since", str(forged)) == 2
    assert str(forged) in capsys.readouterr().err
    assert verify(data, "--since", str(tmp_path / "gone")) == 2


# --- several logs at a time ---


def reports(data: Path, jobs: int) -> tuple[list[dict[str, object]], list[str]]:
    told: list[int] = []
    found = verify_folder(
        data, read_verifiers(data / "keys"), load_producers(data / "keys" / "registry.json"), told.append, jobs=jobs
    )
    assert jobs == 1 or sum(told) >= 0
    return [log.as_json() for log in found.logs], [str(fault) for fault in found.all_faults]


def test_processes_find_what_one_finds(data: Path) -> None:
    assert reports(data, 2) == reports(data, 1)
    segment = segments_of(log_of(data))[1]
    content = segment.events.read_bytes()
    segment.events.write_bytes(content.replace(b'"acme"', b'"ACME"', 1))
    in_one = reports(data, 1)
    assert in_one[1]
    assert reports(data, 2) == in_one


# --- what was found true before ---


def run(data: Path, memory: VerificationMemory | None = None, *since: Path) -> FolderReport:
    verifiers = read_verifiers(data / "keys")
    remembered = load_remembered(since, verifiers)
    return verify_folder(
        data,
        verifiers,
        load_producers(data / "keys" / "registry.json"),
        remembered=remembered,
        memory=memory or VerificationMemory(),
    )


def remembered_by(report: FolderReport) -> VerificationMemory:
    return VerificationMemory(logs={log.origin: log.verified for log in report.logs if log.verified is not None})


def without(report: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in report.items() if name not in names}


def test_a_second_run_finds_the_same_without_deriving_it(data: Path) -> None:
    full = run(data)
    memory = remembered_by(full)
    assert full.holds
    assert len(memory.logs) == 2
    again = run(data, memory)
    for before, after in zip(full.logs, again.logs, strict=True):
        assert without(after.as_json(), "resumed") == without(before.as_json(), "resumed")
        assert (before.resumed, after.resumed) == (0, segments_of(before.folder)[-1].first)
        assert after.resumed > 300


def test_what_was_erased_is_counted_again(data: Path) -> None:
    segment = segments_of(log_of(data))[0]
    first, rest = segment.events.read_bytes().split(b"\n", 1)
    segment.events.write_bytes(erased_line(entry_of(first)) + b"\n" + rest)
    full = run(data)
    assert full.holds, full.all_faults
    again = run(data, remembered_by(full))
    assert again.logs[0].resumed > 0
    assert [log.erased for log in again.logs] == [log.erased for log in full.logs] == [1, 0]


@pytest.mark.parametrize("suffix", [".jsonl", ".records.jsonl"])
def test_the_digests_are_those_of_the_files(data: Path, suffix: str) -> None:
    for log in run(data).logs:
        assert isinstance(log.verified, VerifiedLog)
        assert len(log.verified.segments) == len(segments_of(log.folder)) - 1 > 1
        for segment in log.verified.segments:
            stated = segment.events if suffix == ".jsonl" else segment.records
            assert stated == hashlib.sha256((log.folder / f"{segment.first:020}{suffix}").read_bytes()).hexdigest()


def test_a_log_that_grew_is_followed_from_there(tmp_path: Path) -> None:
    young = LogBuilder(partitions=2)
    young.records = LOGS[0].records[:10]
    memory = remembered_by(run(write(tmp_path / "young", [young])))
    data = write(tmp_path / "data", LOGS)
    report = run(data, memory)
    assert report.holds
    assert report.logs[0].resumed > 0
    assert report.logs[0].events == LOGS[0].state.position
    later = remembered_by(report).logs[LOGS[0].origin]
    assert len(later.segments) > len(memory.logs[LOGS[0].origin].segments)


def test_no_change_is_hidden_by_what_was_true_before(data: Path) -> None:
    """Any byte of the lines, the heads, the tiles and the checkpoints, sampled."""
    memory = remembered_by(run(data))
    log = log_of(data)
    tried = 0
    for path in sorted(path for path in log.rglob("*") if path.is_file()):
        good = path.read_bytes()
        for at in range(0, len(good), max(1, len(good) // 4)):
            path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
            assert not run(log.parent.parent, memory).holds, (path.name, at)
            tried += 1
        path.write_bytes(good)
    assert tried > 80
    assert run(data, memory).logs[0].resumed > 0


def drop_first_segment(log: Path) -> None:
    first = segments_of(log)[0]
    first.events.unlink()
    first.records.unlink()


def drop_last_segments(log: Path) -> None:
    for segment in segments_of(log)[2:]:
        segment.events.unlink()
        segment.records.unlink()


def add_a_file(log: Path) -> None:
    (log / "notes.txt").write_text("hello")


def drop_a_bundle(log: Path) -> None:
    (log / "tlog/tile/entries/000").unlink()


def add_a_tile(log: Path) -> None:
    (log / "tlog/tile/0/999").write_bytes(bytes(8192))


@pytest.mark.parametrize(
    "change",
    [drop_first_segment, drop_last_segments, add_a_file, drop_a_bundle, add_a_tile],
    ids=lambda one: one.__name__,
)
def test_nothing_missing_or_added_is_hidden_either(data: Path, change: Callable[[Path], None]) -> None:
    memory = remembered_by(run(data))
    change(log_of(data))
    report = run(data, memory)
    assert not report.holds
    assert [str(fault) for fault in report.all_faults] == [str(fault) for fault in run(data).all_faults]


def test_with_other_keys_all_is_derived_again(data: Path) -> None:
    memory = remembered_by(run(data))
    (data / "keys" / "more.vkey").write_text(Signer("another", SEED).verifier.vkey)
    report = run(data, memory)
    assert report.holds
    assert {log.resumed for log in report.logs} == {0}


def test_a_checkpoint_from_before_is_looked_at_in_what_is_not_derived(data: Path, tmp_path: Path) -> None:
    memory = remembered_by(run(data))
    kept = publish(tmp_path / "kept", LOGS[0], 8)
    report = run(data, memory, kept / "checkpoint", kept / "records-checkpoint")
    assert report.holds
    assert report.logs[0].resumed > 0
    shutil.rmtree(log_of(data) / "tlog")  # what the lines give there is not known then
    report = run(data, memory, kept / "checkpoint")
    assert report.holds
    assert report.logs[0].resumed == 0
    assert run(data, memory).logs[0].resumed > 0


def test_whoever_writes_the_file_can_hide_a_change(data: Path) -> None:
    """Which is why it is the verifier's own: this says what a resumed run trusts."""
    memory = remembered_by(run(data))
    log = log_of(data)
    for name in ("tlog", "records-tlog"):
        shutil.rmtree(log / name)
    segment = segments_of(log)[0]
    segment.events.write_bytes(segment.events.read_bytes().replace(b'"acme"', b'"ACME"', 1))
    assert not run(data, memory).holds
    origin = LOGS[0].origin
    known = memory.logs[origin]
    forged = known.segments[0].model_copy(update={"events": lines_digests(segment)[0]})
    memory.logs[origin] = known.model_copy(update={"segments": (forged, *known.segments[1:])})
    assert run(data, memory).holds
    assert not run(data).holds


def test_the_command_keeps_its_file(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "verified.json"
    for resumed in (False, True):
        assert verify(data, "--resume-file", str(file), "--json") == 0
        logs = orjson.loads(capsys.readouterr().out)["logs"]
        assert all((log["resumed"] > 0) is resumed for log in logs)
    assert file.stat().st_mode & 0o777 == 0o600
    segment = segments_of(log_of(data))[0]
    good = segment.events.read_bytes()
    segment.events.write_bytes(good.replace(b'"acme"', b'"ACME"', 1))
    assert verify(data, "--resume-file", str(file)) == 1
    assert list(VerificationMemory.load(file).logs) == [LOGS[1].origin]
    segment.events.write_bytes(good)
    assert verify(data, "--resume-file", str(file)) == 0
    assert len(VerificationMemory.load(file).logs) == 2
    file.write_text("{}")
    assert verify(data, "--resume-file", str(file)) == 0
    file.write_text('{"version":2}')
    assert verify(data, "--resume-file", str(file)) == 2
    assert "remove it" in capsys.readouterr().err
    assert {Verifier.parse(vkey_of(log)).name for log in LOGS} == {log.origin for log in LOGS}
