"""`meterproof audit tail|grep|export`: what is asked for comes out, byte for byte, to the last digit, and no more."""

import csv
import io
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import orjson
import pytest
from pyarrow import parquet

from meterproof_schemas.event import entry_of
from meterproof_sinks.audit_events import LogTail, kept_events
from meterproof_sinks.audit_folder import log_folders, segments_of
from meterproof_sinks.audit_log import AuditLog
from meterproof_sinks.audit_retention import RetentionRequest
from meterproof_sinks.audit_segment import split_record
from meterproof_sinks.commands.audit import main as audit
from meterproof_sinks.event_filter import BadFilter, EventFilter, Field, instant_us
from meterproof_sinks.segment_manifest import read_manifests
from meterproof_sinks.segment_writer import SegmentLimits
from tests.audit_upkeep import erase_lines, give_up_all
from tests.builders import NOW_MS, make_event
from tests.log_builder import LogBuilder
from tests.published_log import publish
from tests.sealed_folder import write_sealed_folder

_MAIN = "import sys; from meterproof_sinks.commands.audit import main; sys.exit(main(sys.argv[1:]))"
BIG = 2**63 - 1
AMOUNT = "123456789012345678.123456789012"
DEAR = {
    "model": "gpt-4o",
    "cost": {"amount": AMOUNT, "currency": "USD"},
    "tags": {"team": "search", "cost.centre": "42", "quoted": 'a "b"'},
    "latency": {"total_us": 12},
}


def make_log() -> LogBuilder:
    log = LogBuilder()
    log.batch(3)
    dear = make_event("dear", subject=log.agent, customer="globex", usage={"requests": "0.000000000001"}, data=DEAR)
    big = make_event("big", subject=log.agent, customer="Zoë", usage={"requests": BIG}, time_ms=NOW_MS + 1_000)
    log.batch([dear, big, *log.events(5)])
    log.hole()
    log.batch(4)
    return log


@pytest.fixture
def data(tmp_path: Path) -> Path:
    publish(tmp_path / "audit", make_log(), segment_records=2)
    return tmp_path


def lines_of(log: LogBuilder) -> list[bytes]:
    return [line for _, record in log.records for line in record.lines]


def test_every_event_comes_out_byte_for_byte_in_order(data: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert audit(["export", "--data", str(data)]) == 0
    log = make_log()
    due = [
        b'{"log":"%s","position":%d,"event":%s}' % (log.origin.encode(), n, line)
        for n, line in enumerate(lines_of(log))
    ]
    assert capfdbinary.readouterr().out.splitlines() == due


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        (["--customer", "globex"], ["dear"]),
        (["--customer", "Zoë"], ["big"]),
        (["--id", "e3"], ["e3"]),
        (["--where", "data.model=gpt-4o", "--where", "data.latency.total_us=12"], ["dear"]),
        (["--where", "/data/tags/cost.centre=42"], ["dear"]),
        (["--where", '/data/tags/quoted=a "b"'], ["dear"]),
        (["--where", f"data.usage.requests={BIG}"], ["big"]),
        (["--where", "data.usage.requests=0.000000000001"], ["dear"]),
        (["--where", "data.model=gpt"], []),
        (["--agent", "nobody"], []),
        (["--digest", sha256(make_log().records[1][1].lines[1]).hexdigest()], ["e1"]),
        (["--erased"], []),
    ],
)
def test_grep_finds_what_has_the_value_and_its_exit_code_says_whether(
    data: Path, capfd: pytest.CaptureFixture[str], asked: list[str], ids: list[str]
) -> None:
    assert audit(["grep", *asked, "--json", "--data", str(data)]) == (0 if ids else 1)
    found = [orjson.loads(line)["event"]["id"] for line in capfd.readouterr().out.splitlines()]
    assert found == ids
    assert audit(["grep", *asked, "--count", "--data", str(data / "audit")]) == (0 if ids else 1)
    assert capfd.readouterr().out == f"{len(ids)}\n"


def test_a_range_of_time_has_its_first_moment_and_not_its_last(data: Path) -> None:
    events = list(kept_events(data / "audit"))
    times = sorted({orjson.loads(event.line)["time"] for event in events})
    first, last = instant_us(times[0]), instant_us(times[-1])
    inside = [event for event in events if EventFilter(from_us=first, until_us=last).matches(event.line)]
    assert {orjson.loads(event.line)["time"] for event in inside} == set(times[:-1])


def test_erased_events_are_shown_as_erased_and_found_by_their_digest_alone(
    data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = next(event.line for event in kept_events(data / "audit") if b'"dear"' in event.line)
    erase_lines(data / "audit", lambda one: one == line)
    digest = entry_of(line).hex()
    for asked in (["--erased"], ["--digest", digest]):
        assert audit(["grep", *asked, "--json", "--data", str(data)]) == 0
        assert orjson.loads(capfd.readouterr().out)["erased"] == digest
    assert audit(["grep", "--customer", "globex", "--data", str(data)]) == 1
    assert audit(["tail", "-n", "100", "--data", str(data)]) == 0
    assert f"p0 3  erased, SHA-256 {digest}\n" in capfd.readouterr().out
    assert audit(["export", "--format", "csv", "--data", str(data)]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert [row["entry"] for row in rows if row["erased"] == "true"] == [digest]
    assert len(rows) == len(lines_of(make_log()))


def test_what_is_not_there_any_more_is_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = LogBuilder()
    while len(log.records) < 8:
        log.batch(3)
    write_sealed_folder(tmp_path / "audit", log, bytes_max=2_500)
    (folder,) = log_folders(tmp_path / "audit")
    erase_lines(tmp_path / "audit", lambda line: line == lines_of(log)[-1])
    manifests = read_manifests(folder)
    assert len(manifests) > 1
    request = RetentionRequest(manifests[0].end.clock_ms + 1, "ops@example.com", "policy 7", NOW_MS)
    gone = give_up_all(tmp_path / "audit", request)[log.origin].events
    where = ["--data", str(tmp_path)]
    counted = {log.origin: {"given_up": gone, "erased": 1}}
    left = len(lines_of(log)) - gone
    told = f"{log.origin}: may be missing in this: {gone} events given up, 1 erased\n"

    # What only the line could tell: found or not, exit code and counts say what is so
    for agent, code in ((log.agent, 0), ("nobody", 1)):
        found = left - 1 if code == 0 else 0
        assert audit(["grep", "--agent", agent, "--count", "--json", *where]) == code
        seen = capfd.readouterr()
        assert (orjson.loads(seen.out), seen.err) == ({"found": found, "not_there": counted}, told)
        assert audit(["grep", "--agent", agent, "--json", *where]) == code
        lines = [orjson.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert (len(lines), lines[-1]) == (found + 1, {"not_there": counted})
        assert audit(["grep", "--agent", agent, *where]) == code
        seen = capfd.readouterr()
        assert (len(seen.out.splitlines()), seen.err) == (found, told)
    # By its digest it can be told that no erased line is meant
    assert audit(["grep", "--digest", "ab" * 32, "--count", "--json", *where]) == 1
    assert orjson.loads(capfd.readouterr().out)["not_there"] == {log.origin: {"given_up": gone, "erased": 0}}
    # Behind all that was given up
    assert audit(["grep", "--from", "2030-01-01", "--count", "--json", *where]) == 1
    assert orjson.loads(capfd.readouterr().out)["not_there"] == {log.origin: {"given_up": 0, "erased": 1}}
    # Tail reads the end alone, as far as it is asked
    for count, not_there in ((2, {"given_up": 0, "erased": 1}), (left + 2, {"given_up": 2, "erased": 1})):
        assert audit(["tail", "-n", str(count), "--json", *where]) == 0
        lines = [orjson.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert (len(lines), lines[-1]) == (min(count, left) + 1, {"not_there": {log.origin: not_there}})
    # An export has it beside the file
    out = tmp_path / "all.csv"
    assert audit(["export", "--out", str(out), "--json", *where]) == 0
    seen = capfd.readouterr()
    assert orjson.loads(seen.out) == {"out": str(out), "events": left, "not_there": counted}
    assert seen.err == told
    assert audit(["export", "--json", *where]) == 2


def test_csv_and_parquet_have_every_quantity_to_the_last_digit(data: Path) -> None:
    for ending in ("csv", "parquet"):
        assert audit(["export", "--out", str(data / f"all.{ending}"), "--data", str(data)]) == 0
    with (data / "all.csv").open(newline="") as file:
        spelled = list(csv.DictReader(file))
    events = [orjson.loads(line) for line in lines_of(make_log())]
    assert [row["id"] for row in spelled] == [event["id"] for event in events]
    assert [orjson.loads(row["usage"]) for row in spelled] == [
        {meter: str(quantity) for meter, quantity in event["data"]["usage"].items()} for event in events
    ]
    assert spelled[3]["stated_cost"] == AMOUNT
    table = parquet.read_table(data / "all.parquet").to_pylist()
    assert [dict(row["usage"])["requests"] for row in table] == [
        Decimal(event["data"]["usage"]["requests"]) for event in events
    ]
    assert table[3]["stated_cost"] == Decimal(AMOUNT)
    assert dict(table[3]["tags"]) == DEAR["tags"]
    assert [row["position"] for row in table] == list(range(len(events)))
    assert table[3]["total_us"] == 12


def test_an_export_that_fails_leaves_no_file(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    segment = segments_of(next((data / "audit").iterdir()))[0]
    segment.events.write_bytes(segment.events.read_bytes().replace(b"e0", b"e9"))
    assert audit(["export", "--out", str(data / "all.csv"), "--data", str(data)]) == 1
    assert segment.events.name in capfd.readouterr().err
    assert not list(data.glob("all.csv*"))


def test_a_log_that_is_there_twice_is_not_counted_twice(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixed = Path(shutil.copytree(data, tmp_path / "mixed"))
    log = next((mixed / "audit").iterdir())
    shutil.copytree(log, log.with_name("copy"))
    assert audit(["grep", "--count", "--data", str(mixed)]) == 1
    told = capfd.readouterr()
    assert (told.out, "take the copy out" in told.err) == ("", True)
    shutil.rmtree(log)
    assert audit(["grep", "--count", "--data", str(mixed)]) == 0, "a folder's name is its owner's business"


def test_a_number_of_lines_that_no_list_can_have_is_wrong_usage(data: Path) -> None:
    assert audit(["tail", "--lines", str(2**64), "--data", str(data)]) == 2


def test_a_tail_gives_the_last_events_and_then_each_new_one_once(tmp_path: Path) -> None:
    log = make_log()
    folder = publish(tmp_path, log, segment_records=2)
    lines = lines_of(log)
    for count in range(len(lines) + 2):
        assert [event.line for event in LogTail(folder).last(count)] == (lines[-count:] if count else [])
    tail = LogTail(folder)
    tail.last(1)
    assert not list(tail.new())
    last = segments_of(folder)[-1]
    log.batch(2)
    events, heads = split_record(*log.records[-1])
    with last.events.open("ab") as file:
        file.write(events)
    assert not list(tail.new())  # its record is not there yet
    with last.records.open("ab") as file:
        file.write(heads)
    assert [event.line for event in tail.new()] == lines_of(log)[-2:]
    assert not list(tail.new())
    log.batch(1)
    events, heads = split_record(*log.records[-1])
    first = log.records[-1][1].header.first
    (folder / f"{first:020}.jsonl").write_bytes(events)
    (folder / f"{first:020}.records.jsonl").write_bytes(heads)
    assert [(event.position, event.line) for event in tail.new()] == [(first, lines_of(log)[-1])]


def test_a_tail_goes_on_through_a_segment_that_is_sealed_meanwhile(tmp_path: Path) -> None:
    log = LogBuilder()
    for _ in range(6):
        log.batch(5)
    writer = AuditLog(tmp_path / "log", log.origin, 0, limits=SegmentLimits(bytes_max=2_500))
    writer.append(log.records[:2])
    tail = LogTail(tmp_path / "log")
    assert [event.line for event in tail.last(2)] == lines_of(log)[3:5]
    writer.append(log.records[2:])
    while writer.seal_next():
        pass
    writer.close()
    assert segments_of(tmp_path / "log")[0].is_sealed
    assert [event.line for event in tail.new()] == lines_of(log)[5:]
    assert [event.line for event in LogTail(tmp_path / "log").last(23)] == lines_of(log)[-23:]
    assert [event.line for event in kept_events(tmp_path / "log")] == lines_of(log)


def test_a_tail_goes_on_behind_lines_that_are_erased_meanwhile(tmp_path: Path) -> None:
    log = LogBuilder()
    for _ in range(4):
        log.batch(5)
    writer = AuditLog(tmp_path / "log", log.origin, 0)
    writer.append(log.records[:2])
    tail = LogTail(tmp_path / "log")
    assert [event.line for event in tail.last(2)] == lines_of(log)[3:5]
    for number in (2, 3):
        assert writer.erase(lines_of(log)[number].__eq__) == [number]
        writer.append(log.records[number : number + 1])
        assert [event.line for event in tail.new()] == lines_of(log)[5 * number - 5 : 5 * number]
        assert list(tail.new()) == []
    writer.close()


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-11-21 10:00", "", "2026-11-21T10"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(BadFilter):
        instant_us(text)


def test_moments_may_be_as_coarse_as_people_write_them() -> None:
    midnight = instant_us("2026-11-21")
    assert instant_us("2026-11-21T00:00") == instant_us("2026-11-21T00:00:00Z") == midnight
    assert instant_us("2026-11-21T00:00:00.000001Z") == midnight + 1


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    log = LogBuilder()
    for _ in range(3):
        log.batch(600)
    publish(tmp_path / "audit", log)
    for what in (["grep"], ["export"], ["tail", "-n", "1800"]):
        command = [sys.executable, "-c", _MAIN]
        process = subprocess.Popen(
            [*command, *what, "--data", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        told = process.stderr.read()
        process.stderr.close()
        assert (what, process.wait(120), told) == (what, 0, b"")


def test_wrong_usage_ends_with_2(data: Path) -> None:
    for arguments in (
        ["grep", "--where", "model"],
        ["grep", "--digest", "00"],
        ["grep", "--from", "noon"],
        ["export", "--format", "parquet"],
        ["tail", "--data", str(data / "nowhere")],
    ):
        assert audit([*arguments, *([] if "--data" in arguments else ["--data", str(data)])]) == 2
    with pytest.raises(BadFilter, match="FIELD=VALUE"):
        Field.parse("=x")


def test_an_export_writes_into_what_is_no_file_and_keeps_links(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    every = [*(event.as_json() for event in kept_events(data / "audit"))]
    pipe = data / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_bytes)
        assert audit(["export", "--out", str(pipe), "--data", str(data)]) == 0
        assert read.result().splitlines() == every
    assert pipe.is_fifo(), "somebody else's, as a device is"
    (data / "elsewhere").mkdir()
    link = data / "link.jsonl"
    link.symlink_to(data / "elsewhere" / "all.jsonl")
    assert audit(["export", "--out", str(link), "--data", str(data)]) == 0
    assert link.is_symlink()
    assert [file.name for file in (data / "elsewhere").iterdir()] == ["all.jsonl"]
    assert link.read_bytes().splitlines() == every
    capfd.readouterr()
    assert audit(["export", "--out", str(data / "nowhere" / "all.csv"), "--data", str(data)]) == 1
    assert f"there is no folder {data / 'nowhere'}" in capfd.readouterr().err


def test_a_time_in_which_nothing_can_be_is_wrong_usage(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for until in ("2026-01-01", "2026-01-02"):
        times = ["--from", "2026-01-02", "--until", until]
        for command in ("grep", "export"):
            assert audit([command, *times, "--data", str(data)]) == 2
            assert f"no moment is from 2026-01-02 on and before {until}" in " ".join(capfd.readouterr().err.split())
