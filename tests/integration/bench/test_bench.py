"""The bench runs from start to end, checks what it measured, and writes what it found; how fast is not asked here."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.broker
@pytest.mark.slow
def test_a_quick_run_measures_everything_and_says_so_in_json(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = run("--quick", f"--json={file}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a quick run: the figures mean nothing" in done.stdout
    assert "sequencer at batches of 100 : naive Faust app = " in done.stdout
    found = orjson.loads(file.read_bytes())
    assert found["version"] == 1
    assert found["options"]["quick"] is True
    assert set(found["machine"]) == {"cpus", "python", "kafka", "faust"}
    assert set(found["ratios"]) == {
        "sequencer_100_to_naive",
        "sequencer_100_to_bare",
        "asyncio_100_to_bare",
        "rocksdb_100_to_bare",
    }
    assert [(result["bench"], result["unit"], result["batch"]) for result in found["results"]] == [
        ("bare", "events", 100),
        ("meter", "events", 100),
        ("sequencer", "events", 100),
        ("asyncio", "events", 100),
        ("rocksdb", "events", 100),
        ("naive", "events", None),
        ("clickhouse", "rows", 100),
        ("audit", "lines", 100),
        ("checkpointer", "events", 100),
        ("budgets", "events", 100),
    ]
    for result in found["results"]:
        assert result["events_per_s"] > 0
        assert result["events_per_cpu_s"] > 0
        (only_run,) = result["runs"]
        assert set(only_run) == {"events_per_s", "events_per_cpu_s", "cpu_share", "events", "seconds", "peak_mib"}
    assert [latency["name"] for latency in found["latencies"]] == ["record to log", "log to alert"]
    for latency in found["latencies"]:
        assert latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    assert found["growth"] == []
    assert set(found["steps"]) == {"1", "100"}
    for steps in found["steps"].values():
        assert steps["whole class"] == pytest.approx(steps["judge"] + steps["append_record"], abs=0.01)
        assert steps["signature"] > 0


@pytest.mark.broker
@pytest.mark.slow
def test_growth_is_measured_where_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = run("--quick", "--only=growth", f"--json={file}")
    assert done.returncode == 0, done.stderr[-3000:]
    found = orjson.loads(file.read_bytes())["growth"]
    assert [one["index"] for one in found] == ["memory", "rocksdb"]
    for one in found:
        assert one["events_per_cpu_s"] > 0
        assert one["peak_mib"] > 0


def test_an_unknown_bench_is_refused_with_the_names_there_are() -> None:
    done = run("--only", "nothing")
    assert done.returncode == 2
    assert "no bench 'nothing'" in done.stderr
    assert "sequencer" in done.stderr
