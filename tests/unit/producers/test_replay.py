"""Traces become events by a fixed rule: exact, repeatable, with clear refusals."""

import csv
import os
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meterproof.commands.keygen import main as keygen
from meterproof.commands.replay import main as replay
from meterproof.deployment import DataFolder, DeploymentFile
from meterproof.replay import ColumnMapping, InvalidTrace, event_lines, mapped_rows, read_rows, with_duplicates
from meterproof_schemas.event import parse_event

TRACE = Path(__file__).parents[4] / "shared/data/azure-llm-inference-2023/code.csv"


@pytest.mark.skipif(not TRACE.exists(), reason=f"the shared trace {os.path.relpath(TRACE)} is not there")
def test_the_azure_trace_keeps_every_request_and_token() -> None:
    rows = read_rows(TRACE, "azure-llm", ColumnMapping())
    lines = list(event_lines(rows, source="replay", run="r", shift_us=0))
    events = [parse_event(line) for line in lines]
    with TRACE.open() as file:
        raw = list(csv.DictReader(file))
    assert len(events) == len(raw) == len({event.id for event in events})
    for column, meter in (("ContextTokens", "input_tokens"), ("GeneratedTokens", "output_tokens")):
        assert sum(int(event.data.usage[meter]) for event in events) == sum(int(row[column]) for row in raw)
    assert events[17].subject == "agent-01"
    assert events[17].data.customer == "customer-1"
    assert events[0].time.replace("T", " ").rstrip("Z") == raw[0]["TIMESTAMP"][:-1]


def test_the_same_run_gives_the_same_bytes_and_times_are_shifted() -> None:
    rows = list(
        mapped_rows(
            [{"at": "2026-01-01T00:00:00", "who": "a", "n": "3"}, {"at": "1767225601.5", "who": "b", "n": "0.25"}],
            ColumnMapping(
                {"time": "at", "agent": "who", "usage.seconds": "n"}, {"customer": "acme", "tags.team": "red"}
            ),
        )
    )
    first = list(event_lines(rows, source="s", run="r", shift_us=1_000_000))
    assert first == list(event_lines(rows, source="s", run="r", shift_us=1_000_000))
    events = [parse_event(line) for line in first]
    assert [event.time for event in events] == ["2026-01-01T00:00:01.000000Z", "2026-01-01T00:00:02.500000Z"]
    assert [event.data.usage["seconds"] for event in events] == [3, "0.25"]
    assert events[0].data.tags == {"team": "red"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"who": "a", "n": "3"}, "no column 'at'"),
        ({"at": "yesterday", "who": "a", "n": "3"}, "neither ISO 8601"),
        ({"at": "2026-01-01", "who": "a", "n": "many"}, "not a number"),
        ({"at": "2026-01-01", "who": "a", "n": "NaN"}, "not a finite number"),
        ({"at": "2026-01-01", "who": "", "n": "3"}, "no value for agent"),
        ({"at": "2026-01-01", "who": "a", "n": ""}, "no usage"),
        ({"at": "NaN", "who": "a", "n": "3"}, "neither ISO 8601"),
        ({"at": "1e99", "who": "a", "n": "3"}, "not within the years 0001 to 9999"),
        ({"at": "2026-01-01", "who": "a", "n": "1e999999999"}, "at most 19 digits before the point"),
        ({"at": "2026-01-01", "who": ["a"], "n": "3"}, "who is a list, not a text or number"),
        ({"at": "2026-01-01", "who": "a", "n": {"m": 3}}, "n is an object, not a text or number"),
        ({"at": "2026-01-01", "who": "a", "n": "3", None: ["4"]}, "more values than there are columns"),
        (["at", "who", "n"], "not a JSON object"),
        ("at who n", "not a JSON object"),
        (7, "not a JSON object"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(document: Any, message: str) -> None:
    mapping = ColumnMapping({"time": "at", "agent": "who", "usage.requests": "n"}, {"customer": "acme"})
    with pytest.raises(InvalidTrace, match=f"row 0: .*{message}"):
        list(mapped_rows([document], mapping))


def test_an_integer_field_that_is_no_integer_is_named() -> None:
    mapping = ColumnMapping(
        {"time": "at", "agent": "who", "usage.requests": "n", "status_code": "code"}, {"customer": "c"}
    )
    row = {"at": "2026-01-01", "who": "a", "n": "3", "code": "fine"}
    with pytest.raises(InvalidTrace, match="row 0: status_code is 'fine', not an integer"):
        list(mapped_rows([row], mapping))


def test_a_field_cannot_be_a_value_and_hold_others() -> None:
    mapping = ColumnMapping(
        {"time": "at", "agent": "who", "usage.requests": "n"}, {"customer": "c", "tags": "x", "tags.t": "y"}
    )
    with pytest.raises(InvalidTrace, match=r"row 0: tags has a value of its own, so tags.… has no place"):
        list(mapped_rows([{"at": "2026-01-01", "who": "a", "n": "3"}], mapping))


def test_rows_that_lie_further_apart_than_a_calendar_reaches_are_named() -> None:
    mapping = ColumnMapping({"time": "at", "agent": "who", "usage.requests": "n"}, {"customer": "acme"})
    rows = list(mapped_rows([{"at": at, "who": "a", "n": "3"} for at in ("0001-01-01", "9999-12-31")], mapping))
    shift_us = 1_767_225_600_000_000 - max(row.time_us for row in rows)
    with pytest.raises(InvalidTrace, match="row 0: its time, shifted so that the last row is now, is before year 1"):
        list(event_lines(rows, source="s", run="r", shift_us=shift_us))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("when,who,n\n2026-01-31T10:00:00,bj\u00f6rn,3\n".encode("latin-1"), "not UTF-8 .*; save it as UTF-8"),
        (b"when,who,n\n2026-01-31T10:00:00,a,3,4\n", "row 0: more values than there are columns"),
        (b"when,who,n\n2026-01-31T10:00:00,%s,3\n" % (b"a" * 200_000), "field larger than field limit"),
    ],
    ids=["another encoding", "a value too many", "an endless value"],
)
def test_a_table_that_cannot_be_read_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "calls.csv"
    file.write_bytes(content)
    mapping = ColumnMapping({"time": "when", "agent": "who", "usage.requests": "n"}, {"customer": "acme"})
    with pytest.raises(InvalidTrace, match=message):
        read_rows(file, "csv", mapping)


def test_json_numbers_keep_every_digit(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_text('{"at":1767225601.123456,"who":"a","n":123456789012345.123456789012}\n')
    mapping = ColumnMapping({"time": "at", "agent": "who", "usage.seconds": "n"}, {"customer": "acme"})
    (row,) = read_rows(file, "jsonl", mapping)
    assert row.usage == {"seconds": "123456789012345.123456789012"}
    assert row.time_us == 1_767_225_601_123_456


@pytest.mark.parametrize(
    "line", ["NaN", "[" * 100_000, "9" * 5_000, "{", ""], ids=["NaN", "deep", "long", "torn", "empty"]
)
def test_a_line_that_is_no_json_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_text(f'{line}\n{{"at":1}}\n')
    with pytest.raises(InvalidTrace, match=r"row 0: not (a )?JSON"):
        read_rows(file, "jsonl", ColumnMapping({"time": "at"}))


@pytest.mark.parametrize("share", ["-1", "2", "NaN", "a tenth", "1e999999999999999999999"])
def test_a_share_that_is_none_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2026-01-01,1,1\n")
    assert replay([str(trace), "--data", str(tmp_path), f"--duplicates={share}"]) == 2
    assert "a share between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "0.1", "0.333", "1"])
def test_duplicates_are_exactly_the_share_and_come_after_their_original(share: str) -> None:
    lines = [b"%d" % n for n in range(1_000)]
    sent = with_duplicates(lines, Decimal(share), seed=7)
    assert len(sent) - len(lines) == int(1_000 * Decimal(share))
    assert [line for n, line in enumerate(sent) if line not in sent[:n]] == lines
    assert max(Counter(sent).values()) <= 2
    assert sent == with_duplicates(lines, Decimal(share), seed=7)


def test_a_broker_that_is_away_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = DataFolder(tmp_path)
    folder.keys.mkdir()
    folder.deployment_file.write_text(
        DeploymentFile(
            name="logs.example", deployment="test", bootstrap="127.0.0.1:1", topic_prefix="", partitions=1
        ).model_dump_json()
    )
    trace = tmp_path / "trace.csv"
    trace.write_text("time,agent,usage.requests,customer\n2026-01-01T00:00:00,a,1,acme\n")
    wish = ["producer", "replay", "--source", "replay", "--agent", "*", "--customer", "*"]
    out = ["--out", str(folder.keys / "replay.key"), "--registry", str(folder.registry)]
    assert keygen([*wish, *out]) == 0
    capsys.readouterr()
    maps = [f"--map={name}={name}" for name in ("time", "agent", "usage.requests", "customer")]
    assert replay([str(trace), "--format", "csv", "--data", str(tmp_path), *maps, "--json"]) == 1
    assert "Kafka at 127.0.0.1:1 does not answer" in capsys.readouterr().err.splitlines()[-1]
