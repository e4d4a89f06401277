"""What the README shows is run, in its order, on a pipeline of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from meterproof.status import read_status
from meterproof_schemas.keys import load_registry

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_S = 240
RUN_ELSEWHERE = {"./dev demo", "./dev test"}
"""The demo has a test of its own; the other is what runs this test."""

pytestmark = [pytest.mark.broker, pytest.mark.clickhouse, pytest.mark.slow]


@contextmanager
def started(command: list[str], folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs until the block ends, and is then interrupted as by Ctrl-C."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            assert process.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command to its end; its output."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def wait_for_registry(folder: Path) -> None:
    """Return when the sequencer judges by the registry as it is: it looks at the file now and then."""
    digest = load_registry(folder / "data/keys/registry.json").digest
    limit_s = time.monotonic() + PATIENCE_S
    while (status := read_status(folder / "data/status", "sequencer-0") or {}).get("registry") != digest:
        assert time.monotonic() < limit_s, f"the sequencer goes by {status.get('registry')}, not by {digest}"
        time.sleep(0.2)


def wait_for_events(folder: Path, environment: dict[str, str], events: int) -> None:
    """Return when ClickHouse shows so many events, and the audit folder has a checkpoint that covers them."""
    query = ["./dev", "exec", "meterproof", "query", "--data", "data", "--format", "json"]
    limit_s = time.monotonic() + PATIENCE_S
    while True:
        sizes = [int(path.read_text().split("\n")[1]) for path in (folder / "data/audit").glob("*/checkpoint")]
        if sum(sizes) == events:  # cheaper to see than rows
            rows = orjson.loads(run([*query, "SELECT count() AS n FROM usage"], folder, environment))
            if str(events) in str(rows):
                return
        assert time.monotonic() < limit_s, f"{events} events did not arrive: checkpoints {sizes}"
        time.sleep(0.5)


def test_the_readme_runs_as_printed(tmp_path: Path) -> None:
    (tmp_path / "dev").write_text(f'#!/bin/sh\nexec "{ROOT / "dev"}" "$@"\n')
    (tmp_path / "dev").chmod(0o755)
    exported = tmp_path / "exported"
    environment = dict(os.environ)
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    background = [text.strip() for kind, note, text in blocks if (kind, note) == ("bash", "background")]
    assert len(background) == 1
    shown: list[str] = []
    with started(["bash", "-c", f"exec {background[0]}"], tmp_path, tmp_path / "up.log") as up:
        limit_s = time.monotonic() + PATIENCE_S
        while not (tmp_path / "data/deployment.json").exists():
            assert up.poll() is None, (tmp_path / "up.log").read_text()
            assert time.monotonic() < limit_s
            time.sleep(0.2)
        for kind, note, text in blocks:
            if note == "background" or text.strip() in RUN_ELSEWHERE or kind == "text":
                continue
            if "query" in text:
                wait_for_events(tmp_path, environment, 3)
            if kind == "bash":
                script = f"set -euo pipefail\n{text}\nenv -0 > {exported}"
                shown.append(run(["bash", "-c", script], tmp_path, environment))
                environment = dict(pair.split("=", 1) for pair in exported.read_text().split("\0") if pair)
                if "keygen" in text:
                    wait_for_registry(tmp_path)
            else:
                assert kind == "python", f"a block of kind {kind!r} is not run by anything"
                run([sys.executable, "-c", text], tmp_path, environment)
    output = "\n".join(shown)
    for expected in (
        "support-bot",
        "bot-1",
        "1. accepted",
        "inclusion proved",
        "sent 2 events",
        "Everything holds",
        "true: the event",
        "true: 3 events",
    ):
        assert expected in output
