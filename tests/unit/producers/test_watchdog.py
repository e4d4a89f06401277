"""SIGTERM is heard whatever the main thread does: also in a system call that the kernel takes up again by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PATIENCE_S = 60
_PROGRAM = """
import asyncio, os, signal, sys
from meterproof.watchdog import Watchdog

def die(error):
    print(error, flush=True)
    os._exit(70)

async def main():
    stop_deadline_s = 0.5 if len(sys.argv) > 1 else 60  # a stop that is waited for takes what it takes
    watchdog = Watchdog(stop_deadline_s=stop_deadline_s, stall_timeout_s=600, die=die)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    watchdog.note_signals()
    watchdog.start()
    print("ready", flush=True)
    if len(sys.argv) > 1:
        os.open(sys.argv[1], os.O_WRONLY)  # a pipe that nobody reads
    await asked.wait()
    watchdog.loop_ended()
    print("heard", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("hangs", [False, True])
def test_a_signal_reaches_the_loop_or_starts_the_deadline_without_it(tmp_path: Path, *, hangs: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = [str(pipe)] if hangs else []
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            said, _ = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.kill()
    if hangs:
        assert process.returncode == 70
        assert said.startswith("asked to stop 0.5 s ago and still running; the main thread stands in main (")
    else:
        assert (process.returncode, said) == (0, "heard\n")


_HOLDS_THE_INTERPRETER = """
import threading
from meterproof import watchdog

watchdog.LAST_RESORT_S = 0.5
armed = threading.Event()
arm = watchdog.Watchdog._arm
watchdog.Watchdog._arm = staticmethod(lambda timeout_s: (arm(timeout_s), armed.set()))

def die(error):
    pass  # where the machine is so slow that the thread gets a turn before the end: it goes on, and arms the timer anew

one = watchdog.Watchdog(stop_deadline_s=600, stall_timeout_s=0.5, die=die)
print("ready", flush=True)
one.start()
armed.wait()
one.beat()
sum(range(10**13))
"""


def test_native_code_that_keeps_the_interpreter_to_itself_is_ended_by_the_interpreters_own_timer() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _HOLDS_THE_INTERPRETER],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "ready\n")
    assert "Timeout (0:00:01)!" in ended.stderr
    assert 'File "<string>"' in ended.stderr
