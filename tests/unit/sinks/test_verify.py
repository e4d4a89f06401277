"""`meterproof verify` says true of a folder as it was written, and false of every other, naming the place."""

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from meterproof_proofs.checkpoint import Checkpoint, sign_checkpoint
from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.note import Signer
from meterproof_proofs.tree import leaf_hash
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.event import entry_of
from meterproof_sinks.audit_folder import log_folder_name, segments_of
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.commands.verify import main
from meterproof_sinks.segment_writer import SegmentLimits
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_inputs import Producers, load_producers
from meterproof_stream.judge import Judgement, judge
from tests.builders import make_batch, make_event, make_key, make_registry_file
from tests.log_builder import LogBuilder, make_log, signed_pair

LOGS = [make_log(partition=number, partitions=2) for number in range(2)]


def write_log(folder: Path, log: LogBuilder) -> Path:
    """A log's folder with the checkpoint before the last record."""
    mine = folder / log_folder_name(log.origin)
    writer = AuditLog(mine, log.origin, log.partition, limits=SegmentLimits(bytes_max=3_000))
    writer.append(log.records)
    writer.take_checkpoints(signed_pair(log, -2, seed=b"\7" * 32))
    writer.close()
    return mine


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two logs, their keys and the producers' registry."""
    data = tmp_path_factory.mktemp("data")
    (data / "keys").mkdir()
    for log in LOGS:
        write_log(data / "audit", log)
    vkeys = [Signer(log.origin, b"\7" * 32).verifier.vkey for log in LOGS]
    (data / "keys" / "log.vkey").write_text("# the logs' keys\n" + "\n".join(vkeys) + "\n")
    (data / "keys" / "registry.json").write_bytes(make_registry_file(LOGS[0].key))
    return data


@pytest.fixture
def data(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "data"))


@pytest.fixture
def log(data: Path) -> Path:
    """The folder of the first log."""
    return data / "audit" / log_folder_name(LOGS[0].origin)


def run(capsys: pytest.CaptureFixture[str], data: Path, *arguments: str) -> tuple[int, str]:
    """The command's exit code, and what it said of faults."""
    code = main([str(data), "--vkey", str(data / "keys" / "log.vkey"), *arguments])
    return code, capsys.readouterr().err


def test_a_good_folder_is_true_and_counts_are_exact(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(data), "--vkey", str(data / "keys" / "log.vkey"), "--json"]) == 0
    report = orjson.loads(capsys.readouterr().out)
    assert report["holds"] is True
    for found, log in zip(report["logs"], LOGS, strict=True):
        assert found["origin"] == log.origin
        assert found["records"] == len(log.records)
        assert found["events"] == log.state.position == 10
        assert (found["covered"], found["not_covered"]) == (9, 1)
        assert found["signatures"] == {"verified": 5, "repudiable": 0, "unchecked": 0}
        assert found["batch_roots"] == {"verified": 5, "unchecked": 0}


@pytest.mark.parametrize("which", ["data", "audit", "log"])
def test_a_data_folder_an_audit_folder_and_one_log_are_taken(which: str, data: Path, log: Path) -> None:
    folder = {"data": data, "audit": data / "audit", "log": log}[which]
    report = verify_folder(folder, read_verifiers(data / "keys"))
    assert report.holds
    assert len(report.logs) == (1 if which == "log" else 2)


def test_the_table_tells_what_is_not_covered_and_not_checked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "keys" / "registry.json").unlink()
    assert main([str(data), "--vkey", str(data / "keys")]) == 0
    shown = capsys.readouterr().out
    assert "not yet" in shown
    assert "5 unchecked" in shown.replace("\n", " ")
    assert "signatures were not checked" in shown
    assert "Everything holds." in shown


def test_logs_that_are_not_in_the_folder_are_named(data: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(log)
    (data / "audit" / "lost+found").mkdir()
    assert main([str(data), "--vkey", str(data / "keys")]) == 0
    assert f"not verified: {LOGS[0].origin}" in capsys.readouterr().out


def test_without_any_checkpoint_it_is_not_true(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for log in (data / "audit").iterdir():
        (log / "checkpoint").unlink()
        shutil.rmtree(log / "tlog")
    assert main([str(data), "--vkey", str(data / "keys")]) == 1
    assert "nothing is proved" in capsys.readouterr().out


def test_every_changed_byte_is_found_in_its_file(data: Path, log: Path) -> None:
    """One bit, anywhere in what counts: false, and the message names a file of this log and a line."""
    verifiers, producers = read_verifiers(data / "keys"), load_producers(data / "keys" / "registry.json")
    tried = 0
    for path in sorted(log.glob("*.jsonl")):
        good = path.read_bytes()
        for at in range(0, len(good), 61):
            path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
            (report,) = verify_folder(log, verifiers, producers).logs
            place = report.faults[0]
            assert place.file.parent == log
            assert place.file.name[:20] == path.name[:20]
            assert place.line is not None
            first = good[:at].count(b"\n") + 1
            if path.name.endswith(".records.jsonl"):
                assert place.file == path
                # At most the four lines of the record are to blame.
                assert abs(place.line - first) < 4
            assert not report.holds
            tried += 1
        path.write_bytes(good)
    assert tried > 150
    assert verify_folder(log, verifiers, producers).holds


def test_a_changed_event_line_is_named(data: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = segments_of(log)[0].events
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(path.read_bytes().replace(b'"id":"e1"', b'"id""e1",'))
    assert b'"id":"e1"' in lines[1]
    code, said = run(capsys, data)
    assert code == 1
    assert f"{path}, line 2, position 1: the line was changed" in said


def drop_line(log: Path) -> str:
    path = segments_of(log)[0].events
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    return f"{path}, line 1, position 0"


def swap_lines(log: Path) -> str:
    path = segments_of(log)[0].events
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    return f"{path}, line 1, position 0"


def add_line(log: Path) -> str:
    path = segments_of(log)[-1].events
    path.write_bytes(path.read_bytes() + b'{"more":1}\n')
    return f"{path}, line "


def cut_events(log: Path) -> str:
    path = segments_of(log)[-1].events
    path.write_bytes(path.read_bytes()[:-1])
    return f"{path}, line "


def cut_records(log: Path) -> str:
    path = segments_of(log)[-1].records
    path.write_bytes(path.read_bytes()[:-1])
    return f"{path}, line "


def drop_last_covered_records(log: Path) -> str:
    last = segments_of(log)[-1]
    while last.first >= 9:
        last.events.unlink()
        last.records.unlink()
        last = segments_of(log)[-1]
    last.events.unlink()
    last.records.unlink()
    return f"{log / 'checkpoint'}, line 2, position {last.first}: 9 events are signed for"


def drop_segment(log: Path) -> str:
    segment = segments_of(log)[1]
    segment.events.unlink()
    segment.records.unlink()
    return f"{segments_of(log)[1].records}, position {segment.first}: a segment that begins at"


def drop_file(log: Path) -> str:
    path = segments_of(log)[1].events
    path.unlink()
    return f"{path}, position {segments_of(log)[1].first}: is missing"


def drop_record(log: Path) -> str:
    """The record of a hole has no events, so nothing but the chain tells that it is gone."""
    path = next(s.records for s in segments_of(log) if b'"kind":"hole"' in s.records.read_bytes())
    lines = path.read_bytes().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b'"kind":"hole"' in line)
    path.write_bytes(b"".join(lines[: at - 1] + lines[at + 1 :]))
    return "the record does not follow the one before"


def stray_file(log: Path) -> str:
    (log / "notes.txt").write_text("x")
    return f"{log / 'notes.txt'}: is no part of a log"


def stray_folder(log: Path) -> str:
    (log.parent / "other").mkdir()
    (log.parent / "other" / "x").write_text("x")
    return f"{log.parent / 'other'}: is no log's folder"


def other_name(log: Path) -> str:
    path = log / "log.json"
    path.write_bytes(path.read_bytes().replace(b"example.com", b"example.org"))
    return "is a checkpoint"[:0] + "example.org"


def no_name(log: Path) -> str:
    (log / "log.json").unlink()
    return f"{log / 'log.json'}: is missing"


def checkpoint_signature(log: Path) -> str:
    path = log / "checkpoint"
    note = path.read_bytes()
    path.write_bytes(note[:-9] + (b"A" if note[-9:-8] != b"A" else b"B") + note[-8:])
    return f"{path}"


def checkpoint_size(log: Path) -> str:
    path = log / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n9\n", b"\n8\n"))
    return f"{path}: note not verified: the signature by a known key is wrong"


def _resign(log: Path, size: int, root: bytes, origin: str, seed: bytes = b"\7" * 32) -> None:
    note = sign_checkpoint(Checkpoint(origin, size, root), [Signer(origin, seed)])
    (log / "checkpoint").write_bytes(note)


def signed_other_root(log: Path) -> str:
    _resign(log, 9, b"\1" * 32, LOGS[0].origin)
    return f"{log / 'checkpoint'}, line 3, position 0: the signed root of size 9 is not"


def signed_other_size(log: Path) -> str:
    _resign(log, 8, LOGS[0].state.frontier.root(), LOGS[0].origin)
    return f"{log / 'checkpoint'}, line 2, position 8: the signed size is not the end of any record"


def signed_beyond_the_end(log: Path) -> str:
    _resign(log, 11, b"\1" * 32, LOGS[0].origin)
    return f"{log / 'checkpoint'}, line 2, position 10: 11 events are signed for, but only 10"


def signed_by_another_key(log: Path) -> str:
    _resign(log, 10, LOGS[0].state.frontier.root(), LOGS[0].origin, b"\10" * 32)
    return f"{log / 'checkpoint'}: note not verified: no signature by a known key"


def checkpoint_of_another_log(log: Path) -> str:
    shutil.copy(log.parent / log_folder_name(LOGS[1].origin) / "checkpoint", log / "checkpoint")
    return f"{log / 'checkpoint'}: "


MUTATIONS = [
    drop_line,
    swap_lines,
    add_line,
    cut_events,
    cut_records,
    drop_last_covered_records,
    drop_segment,
    drop_file,
    drop_record,
    stray_file,
    stray_folder,
    other_name,
    no_name,
    checkpoint_signature,
    checkpoint_size,
    signed_other_root,
    signed_other_size,
    signed_beyond_the_end,
    signed_by_another_key,
    checkpoint_of_another_log,
]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=[mutate.__name__ for mutate in MUTATIONS])
def test_a_folder_that_was_changed_is_false_and_the_place_is_named(
    data: Path, log: Path, mutate: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = mutate(log)
    code, said = run(capsys, data)
    assert code == 1
    assert place in said


def test_a_producer_that_the_registry_does_not_know_is_false(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "others.json"
    registry.write_bytes(make_registry_file(make_key("somebody else")))
    code, said = run(capsys, data, "--producers", str(registry))
    assert code == 1
    assert "unknown_key" in said


def test_a_log_that_is_being_written_is_true_though_its_last_record_is_not_whole(data: Path, log: Path) -> None:
    writer = AuditLog(log, LOGS[0].origin, 0)
    path = segments_of(log)[-1].events
    path.write_bytes(path.read_bytes() + b'{"half":')
    report = verify_folder(log, read_verifiers(data / "keys"))
    assert report.holds
    assert report.logs[0].unfinished
    writer.close()
    report = verify_folder(log, read_verifiers(data / "keys"))
    assert not report.holds
    (fault,) = report.all_faults
    assert "No signed checkpoint covers that. If the sink crashed" in str(fault)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{data}/nothing", "--vkey", "{data}/keys"], "no such folder"),
        (["{data}", "--vkey", "{data}/keys/nothing"], "cannot be read"),
        (["{data}", "--vkey", "{data}/audit"], "holds no verifier key"),
        (["{data}", "--vkey", "{data}/keys/registry.json"], "line 1"),
        (["{data}", "--vkey", "{data}/keys", "--producers", "{data}/keys/log.vkey"], "registry"),
        (["{data}"], "--vkey"),
    ],
)
def test_what_cannot_be_begun_is_a_usage_error(
    data: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(data=data) for argument in arguments]) == 2
    assert says in capsys.readouterr().err


def test_an_empty_folder_is_false(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "data" / "keys"), "--vkey", str(data / "keys")]) == 1
    assert "holds no log" in capsys.readouterr().err


# --- a log that is consistent in itself and signed, but says what no producer said ---


def forged(change: Callable[[Judgement], None]) -> LogBuilder:
    """A log whose owner changed the verdict on a batch before it was chained and signed."""
    log = LogBuilder()
    log.batch(2)
    lines = log.events(3)
    value = make_batch(lines, log.key, sequence=1)
    offset = log.state.next_source_offset
    judgement = judge(
        value,
        partition=0,
        offset=offset,
        append_ms=log.clock_ms,
        state=log.state,
        registry=log.registry,
        meters=frozenset({"requests"}),
    )
    change(judgement)
    log._append(judgement)
    log.batch(1)
    return log


def as_it_was(judgement: Judgement) -> None:
    """Leave the verdict alone."""


def invent_an_event(judgement: Judgement) -> None:
    line = make_event("invented")
    judgement.text += line + b"\n"
    judgement.entries += entry_of(line)
    judgement.leaves += leaf_hash(entry_of(line))
    judgement.identities += b"i" * 16


def replace_an_event(judgement: Judgement) -> None:
    lines = [make_event("replaced"), *judgement.lines[1:]]
    judgement.text = b"".join([line + b"\n" for line in lines])
    judgement.entries = b"".join(map(entry_of, lines))
    judgement.leaves = b"".join(leaf_hashes(map(entry_of, lines)))


def leave_an_event_out(judgement: Judgement) -> None:
    judgement.text = b"".join(judgement.text.splitlines(keepends=True)[:-1])
    judgement.entries, judgement.leaves = judgement.entries[:-32], judgement.leaves[:-32]
    judgement.identities = judgement.identities[:-16]


def claim_another_refusal(judgement: Judgement) -> None:
    leave_an_event_out(judgement)
    judgement.not_accepted = [(2, "malformed_event", "00" * 32)]


def sign_by_nobody(judgement: Judgement) -> None:
    header, signatures = judgement.carried or (b"", b"")
    judgement.carried = header, signatures.replace(b'"signature":"', b'"signature":"AAAA')


def another_source(judgement: Judgement) -> None:
    judgement.source_digest = "1" * 64


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (invent_an_event, "the signed root of the batch does not follow"),
        (replace_an_event, "the signed root of the batch does not follow"),
        (leave_an_event_out, "the signed root of the batch does not follow"),
        (claim_another_refusal, "the signed root of the batch does not follow"),
        (sign_by_nobody, "bad_signature"),
        (another_source, "source digest"),
    ],
)
def test_what_the_logs_owner_made_up_is_false_although_it_is_signed(
    tmp_path: Path, change: Callable[[Judgement], None], says: str
) -> None:
    log = forged(change)
    folder = write_log(tmp_path, log)
    verifier = Signer(log.origin, b"\7" * 32).verifier
    report = verify_folder(folder, [verifier], Producers(log.registry, frozenset()))
    assert not report.holds
    assert says in str(report.all_faults[0])
    assert report.all_faults[0].position == 2
    honest = write_log(tmp_path / "honest", forged(as_it_was))
    assert verify_folder(honest, [verifier], Producers(log.registry, frozenset())).holds


def test_signatures_by_a_secret_that_is_not_here_are_unchecked_not_ok(data: Path, log: Path, tmp_path: Path) -> None:
    registry = orjson.loads((data / "keys" / "registry.json").read_bytes())
    shared = {"key_id": "shared", "algorithm": "hmac-sha256", "secret_file": "not-here", "producer": "gateway"}
    everything = {"sources": ["*"], "agents": ["*"], "customers": ["*"]}
    path = tmp_path / "registry.json"
    path.write_bytes(orjson.dumps({"version": 1, "keys": [*registry["keys"], shared | everything]}))
    producers = load_producers(path)
    assert producers.without_secret == {"shared"}
    verifiers = read_verifiers(data / "keys")
    assert verify_folder(log, verifiers, producers).logs[0].signatures_verified == 5
    absent = Producers(producers.registry, frozenset({LOGS[0].key.key_id}))
    (report,) = verify_folder(log, verifiers, absent).logs
    assert (report.holds, report.signatures_verified, report.signatures_unchecked) == (True, 0, 5)
