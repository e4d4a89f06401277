"""Traces become events by a fixed rule: exact, repeatable, with clear refusals."""

import csv
import os
from collections import Counter
from decimal import Decimal
from pathlib import Path

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
    ],
)
def test_a_row_that_cannot_be_read_is_named(document: dict[str, str], message: str) -> None:
    mapping = ColumnMapping({"time": "at", "agent": "who", "usage.requests": "n"}, {"customer": "acme"})
    with pytest.raises(InvalidTrace, match=f"row 0: .*{message}"):
        list(mapped_rows([document], mapping))


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
