"""The supervisor keeps the pipeline running, loses nothing over crashes, and leaves nothing behind."""

import asyncio
import base64
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meterproof.commands.replay import publish
from meterproof.deployment import DataFolder
from meterproof.replay import azure_llm_rows, event_lines
from meterproof_local import worker as worker_module
from meterproof_local.clickhouse_reader import clickhouse_rows
from meterproof_local.errors import PipelineStopped, SetupRefused
from meterproof_local.setup import SetupWish, set_up
from meterproof_local.supervisor import BROKER, Supervisor
from meterproof_local.worker import FIRST_PAUSE_S, STABLE_AFTER_S, State, Worker, WorkerSpec
from tests.integration.local.conftest import environment, processes_of, wait_until

_ENDPOINTS = """{"version": 1, "endpoints": [
  {"name": "pager", "url": "https://hooks.example.com/", "secret_file": "pager.secret",
   "since": "2026-01-01T00:00:00.000Z"}
]}"""


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def state_of(worker: Worker) -> State:
    return worker.state


def lines(count: int, run: str) -> list[bytes]:
    """Events of now, in 16 agents."""
    rows = [f"2026-01-01 00:00:00.0000000,{number},1" for number in range(count)]
    shift_us = time.time_ns() // 1000 - 1_767_225_600_000_000
    table = ["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]
    return list(event_lines(azure_llm_rows(table), source="replay", run=run, shift_us=shift_us))


@pytest.mark.broker
@pytest.mark.clickhouse
@pytest.mark.slow
async def test_workers_and_broker_come_back_and_nothing_is_lost(tmp_path: Path) -> None:
    """Every worker is killed while it has work, then the broker; every event is everywhere, once."""
    said: list[str] = []
    folder = DataFolder(tmp_path / "data")
    folder.root.mkdir()
    folder.webhooks.write_text(_ENDPOINTS)
    (folder.root / "pager.secret").write_text(f"whsec_{base64.b64encode(bytes(32)).decode()}")
    (folder.root / "pager.secret").chmod(0o600)
    async with Supervisor(folder, SetupWish(partitions=2), say=said.append) as supervisor:
        await supervisor.wait_until_ready()
        before = {name: worker.pid for name, worker in supervisor.workers.items()}
        await publish(lines(500, "a"), folder, speed=0, show_progress=False)
        for name in supervisor.workers:
            supervisor.kill(name)
        await publish(lines(500, "b"), folder, speed=0, show_progress=False)
        await supervisor.wait_until_drained()
        await supervisor.wait_until(
            lambda: all(worker.pid not in {None, before[name]} for name, worker in supervisor.workers.items()),
            "all were started again",
        )
        for name, worker in supervisor.workers.items():
            assert worker.restarts >= 1, name
        supervisor.kill(BROKER)
        await supervisor.wait_until(lambda: any("Kafka is back" in text for text in said), "Kafka is back")
        assert supervisor.broker_restarts == 1
        await supervisor.wait_until(
            lambda: (supervisor.status("webhook") or {}).get("endpoints", {}).keys() == {"pager"}, "webhooks are sent"
        )
        await publish(lines(500, "c"), folder, speed=0, show_progress=False)
        assert (await supervisor.wait_until_drained()).size == 1500
        sql = "SELECT count(), uniqExact(source, id) FROM usage"
        assert (await asyncio.to_thread(clickhouse_rows, folder, sql)) == [(1500, 1500)]
        audited = [line for path in folder.audit.glob("*/*0.jsonl") for line in path.read_bytes().splitlines()]
        assert len(audited) == len(set(audited)) == 1500
        pids = {worker.pid for worker in supervisor.workers.values()} | {supervisor.broker.pid}
    assert not [pid for pid in pids if pid is not None and is_there(pid)]
    assert processes_of(folder.root) == set()


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_survives_the_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    data = tmp_path / "data"
    command = ["meterproof", "up", "--data", str(data), "--partitions", "1"]
    with (tmp_path / "printed.txt").open("wb") as output:
        supervisor = subprocess.Popen(command, env=environment(), stdout=output, stderr=subprocess.STDOUT)
    try:
        # The supervisor, the broker and five workers.
        wait_until(lambda: len(processes_of(data)) == 7 or supervisor.poll() is not None, "everything runs")
        assert supervisor.poll() is None, (tmp_path / "printed.txt").read_text()
        wait_until((data / "status" / "sequencer-0.json").exists, "a worker works")
        supervisor.send_signal(number)
        code = supervisor.wait(240)
    finally:
        supervisor.kill()
        supervisor.wait()
    assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL), (tmp_path / "printed.txt").read_text()
    wait_until(lambda: processes_of(data) == set(), "nothing is left")


@pytest.mark.broker
async def test_a_worker_that_needs_a_person_is_shown_and_not_started_again(tmp_path: Path) -> None:
    """A wrong command line stays wrong, however often it is tried."""
    said: list[str] = []

    def specs(_folder: DataFolder, _sequencers: int) -> list[WorkerSpec]:
        return [WorkerSpec("mistyped", ("sequenser", "run"), "mistyped")]

    supervisor = Supervisor(DataFolder(tmp_path), SetupWish(partitions=1), say=said.append, specs=specs)
    async with supervisor:
        with pytest.raises(PipelineStopped, match=r"(?s)mistyped stopped \(exit code 2\).*sequenser"):
            await supervisor.wait_until_ready()
        (worker,) = supervisor.needing_you()
        assert (worker.state, worker.restarts) == (State.NEEDS_YOU, 0)
    assert any("not started again" in text for text in said)


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that only sleeps."""
    monkeypatch.setattr(worker_module, "_METERPROOF", "import time; time.sleep(600)")
    return Worker(WorkerSpec("sleeper", (), "sleeper"), tmp_path, tmp_path)


def ended(worker: Worker, now_s: float) -> Callable[[], bool]:
    return lambda: worker.watch(now_s)


def test_crashes_in_a_row_wait_longer_and_a_stable_run_starts_over(sleeper: Worker) -> None:
    now_s = 1000.0
    sleeper.start(now_s)
    try:
        for pause_s in (FIRST_PAUSE_S, FIRST_PAUSE_S * 2, FIRST_PAUSE_S * 4):
            sleeper.kill()
            wait_until(ended(sleeper, now_s), "its end is noticed")
            assert state_of(sleeper) is State.WAITING
            assert not sleeper.watch(now_s + pause_s * 0.9)
            assert state_of(sleeper) is State.WAITING
            assert sleeper.watch(now_s + pause_s * 1.1)
            assert state_of(sleeper) is State.RUNNING
            now_s += pause_s * 1.1
        assert sleeper.restarts == 3
        now_s += STABLE_AFTER_S + 1
        sleeper.kill()
        wait_until(ended(sleeper, now_s), "its end is noticed")
        assert sleeper.watch(now_s + FIRST_PAUSE_S * 1.1)
    finally:
        sleeper.end()
    assert state_of(sleeper) is State.STOPPED


def test_asked_to_stop_it_is_not_started_again(sleeper: Worker) -> None:
    sleeper.start(0.0)
    pid = sleeper.pid
    sleeper.ask_to_stop(0.0)
    wait_until(lambda: sleeper.has_ended(1.0), "it ended")
    assert not sleeper.watch(100.0)
    assert (sleeper.state, sleeper.pid, sleeper.exit_code) == (State.STOPPED, None, -signal.SIGTERM)
    assert pid is not None
    assert not is_there(pid)


def test_a_second_set_up_changes_nothing(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    set_up(folder, SetupWish())
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in content} >= {
        "log.key",
        "replay.key",
        "registry.json",
        "price-book.json",
        "budgets.json",
    }
    assert (folder.log_key.stat().st_mode & 0o777, folder.keys.stat().st_mode & 0o777) == (0o600, 0o700)
    set_up(folder, SetupWish())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == content


def test_a_faulty_file_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    set_up(folder, SetupWish())
    before = folder.budgets.read_bytes()
    faulty = tmp_path / "budgets.json"
    faulty.write_text('{"version": 1, "budgets": [{"name": "x"}]}')
    with pytest.raises(SetupRefused, match=r"budgets\.json: budget file"):
        set_up(folder, SetupWish(budgets=faulty))
    assert folder.budgets.read_bytes() == before
