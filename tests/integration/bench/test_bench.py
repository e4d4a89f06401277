"""The bench runs from start to end, checks what it measured, and writes what it found; how fast is not asked here."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

ROOT = Path(__file__).resolve().parents[3]
ONE_OF_EACH_KIND = ("profile", "sequencer", "latency", "rebuild", "growth")
PEERS = ("quix", "kafka-streams")


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.broker
@pytest.mark.clickhouse
@pytest.mark.slow
def test_a_quick_run_measures_one_of_each_kind_and_says_so_in_json(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = run("--quick", f"--json={file}", *(f"--only={bench}" for bench in ONE_OF_EACH_KIND))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a quick run: the figures mean nothing" in done.stdout
    found = orjson.loads(file.read_bytes())
    assert found["version"] == 1
    assert found["options"]["quick"] is True
    assert set(found["machine"]) == {"cpus", "python", "kafka", "faust"}
    (result,) = found["results"]
    assert (result["bench"], result["unit"], result["batch"]) == ("sequencer", "events", 100)
    assert result["events_per_s"] > 0
    assert result["events_per_cpu_s"] > 0
    (only_run,) = result["runs"]
    figures = {"events_per_s", "events_per_cpu_s", "cpu_share", "events", "seconds", "peak_mib", "quarters_mib"}
    assert set(only_run) == figures
    assert [latency["name"] for latency in found["latencies"]] == ["record to log", "log to alert"]
    for latency in found["latencies"]:
        assert latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    assert [one["index"] for one in found["growth"]] == ["memory", "rocksdb"]
    for one in found["growth"]:
        assert one["events_per_cpu_s"] > 0
        assert one["peak_mib"] > 0
    assert {figure["bench"] for figure in found["figures"]} == {"rebuild"}
    assert all(figure["value"] > 0 for figure in found["figures"])
    assert found["not_measured"] == {}
    assert set(found["steps"]) == {"1", "100"}
    for steps in found["steps"].values():
        assert steps["whole class"] == pytest.approx(steps["judge"] + steps["append_record"], abs=0.01)
        assert steps["signature"] > 0


@pytest.fixture(scope="module")
def run_of_peers(tmp_path_factory: pytest.TempPathFactory) -> "tuple[subprocess.CompletedProcess[str], Any]":
    """A quick run of all peers on one broker, and what it found."""
    file = tmp_path_factory.mktemp("peers") / "bench.json"
    done = run("--quick", *(f"--only={peer}" for peer in PEERS), f"--json={file}")
    assert done.returncode == 0, done.stderr[-3000:]
    return done, orjson.loads(file.read_bytes())


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_does_the_same_work_in_an_environment_of_its_own(
    peer: str, run_of_peers: "tuple[subprocess.CompletedProcess[str], Any]"
) -> None:
    done, found = run_of_peers
    if reason := found["not_measured"].get(peer):
        assert f"{peer}: not measured: " in done.stdout
        pytest.skip(f"{peer}: {reason}")
    (result,) = [result for result in found["results"] if result["bench"] == peer]
    assert result["events_per_cpu_s"] > 0


def test_an_unknown_bench_is_refused_with_the_names_there_are() -> None:
    done = run("--only", "nothing")
    assert done.returncode == 2
    assert "no bench 'nothing'" in done.stderr
    assert "sequencer" in done.stderr
