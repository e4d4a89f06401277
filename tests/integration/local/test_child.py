"""A child ends with its parent, on systems with and without PR_SET_PDEATHSIG."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from meterproof_local.child import Child

# Linux can do both: the second way is what other systems get.
WAYS = [pytest.param(False, id="prctl", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux only"))]
WAYS += [pytest.param(True, id="watch")]

PARENT = """
import os, sys
from pathlib import Path
from meterproof_local.child import Child
with open(sys.argv[1], "wb") as output:
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    child = Child([sys.executable, "-c", program], folder=Path("/"), environment=os.environ, output=output,
                  watch=sys.argv[2] == "True")
sys.stdin.read()
if sys.argv[3] == "crash":
    os.kill(os.getpid(), 9)
"""

PATIENT = (
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(600)"
)
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_text(path: Path) -> str:
    limit = time.monotonic() + 60
    while not (text := path.read_text() if path.exists() else "").endswith("\n"):
        assert time.monotonic() < limit, "no output within a minute"
        time.sleep(0.01)
    return text.strip()


def start(path: Path, program: str, *, watch: bool) -> Child:
    with path.open("wb") as output:
        command = [sys.executable, "-c", program]
        child = Child(command, folder=path.parent, environment=os.environ, output=output, watch=watch)
    assert wait_for_text(path) == "up"
    return child


@pytest.mark.parametrize("end", ["crash", "exit"])
@pytest.mark.parametrize("watch", WAYS)
def test_it_ends_when_its_parent_crashes_or_forgets_it(tmp_path: Path, end: str, *, watch: bool) -> None:
    output = tmp_path / "output"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, output, str(watch), end], stdin=subprocess.PIPE, text=True
    ) as parent:
        pid = int(wait_for_text(output))
        assert is_running(pid)
        parent.communicate()
    limit = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < limit, "still running a minute after its parent"
        time.sleep(0.01)


@pytest.mark.parametrize("watch", WAYS)
def test_it_stops_on_sigterm_with_its_own_exit_code(tmp_path: Path, *, watch: bool) -> None:
    child = start(tmp_path / "output", PATIENT, watch=watch)
    assert child.poll() is None
    assert child.stop(60) == 7
    assert child.poll() == 7
    assert child.stop(60) == 7


@pytest.mark.parametrize("watch", WAYS)
def test_a_frozen_one_still_stops(tmp_path: Path, *, watch: bool) -> None:
    child = start(tmp_path / "output", PATIENT, watch=watch)
    child.send_signal(signal.SIGSTOP)
    assert child.stop(60) == 7


@pytest.mark.parametrize("watch", WAYS)
def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, *, watch: bool) -> None:
    child = start(tmp_path / "output", STUBBORN, watch=watch)
    assert child.stop(0.1) == -signal.SIGKILL


def test_another_thread_may_not_start_one(tmp_path: Path) -> None:
    caught: list[RuntimeError] = []

    def run() -> None:
        try:
            start(tmp_path / "output", PATIENT, watch=False)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])
    assert (tmp_path / "output").read_bytes() == b""
