"""One run of the real demo, for every test that looks at what it leaves behind."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EVENTS = 400


@dataclass(frozen=True)
class DemoRun:
    """What `meterproof demo` printed, wrote and left behind."""

    folder: Path
    """Where it was called."""
    data: Path
    code: int
    printed: str
    figures: dict[str, Any]
    log: Path
    """Where `start` puts what the programs print."""

    def commands(self) -> list[str]:
        """The commands that it printed to go on with."""
        following = self.printed.partition("\nNext:\n")[2]
        return [line.strip() for line in following.splitlines() if line.strip() and not line.strip().startswith("#")]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as it was printed, where it was printed."""
        return subprocess.run(
            shlex.split(command), check=False, cwd=self.folder, env=environment(), capture_output=True, text=True
        )

    def start(self, command: str) -> "subprocess.Popen[bytes]":
        """Start a command as it was printed, and let it run."""
        with self.log.open("wb") as output:
            return subprocess.Popen(
                shlex.split(command), cwd=self.folder, env=environment(), stdout=output, stderr=subprocess.STDOUT
            )


def environment() -> dict[str, str]:
    """This process's own, with the commands of its Python found first, and nothing set for meterproof."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METERPROOF_")}
    kept |= {name: os.environ[name] for name in ("METERPROOF_CACHE", "METERPROOF_MAVEN_MIRROR") if name in os.environ}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what must happen; the limit only turns a hang into a failure."""
    limit = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < limit, f"did not happen in time: {what}"
        time.sleep(0.05)


def processes_of(data: Path) -> set[int]:
    """Every process that has this folder in its command line: workers, broker, supervisor."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(data).encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found - {os.getpid()}


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """The demo, small, run once from a folder of its own."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        ["meterproof", "demo", "--events", str(EVENTS), "--data", "data", "--json", "figures.json"],
        check=False,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    figures = folder / "figures.json"
    assert figures.exists(), done.stdout + done.stderr
    return DemoRun(
        folder,
        folder / "data",
        done.returncode,
        done.stdout,
        json.loads(figures.read_bytes()),
        folder / "printed.txt",
    )


@pytest.fixture(scope="module")
def demo_again(demo_run: DemoRun) -> Iterator[DemoRun]:
    """The demo's pipeline, started again on its data by the command that it printed."""
    (command,) = [command for command in demo_run.commands() if " up " in command]
    supervisor = demo_run.start(command)
    try:
        wait_until(lambda: "workers started" in demo_run.log.read_text() or supervisor.poll() is not None, "up")
        assert supervisor.poll() is None, demo_run.log.read_text()
        wait_until((demo_run.data / "clickhouse" / "endpoint.json").exists, "ClickHouse can be asked")
        yield demo_run
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(240) == 0, demo_run.log.read_text()
    finally:
        supervisor.kill()
        supervisor.wait()
