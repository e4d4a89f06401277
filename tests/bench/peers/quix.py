"""Quix Streams, exactly once: the app of `quix_app.py` in an environment made from `quix.lock` for this run.

The lock is what `uv pip compile --universal --python-version 3.11 --generate-hashes` made of `quixstreams==3.28.1`.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.bench.forwarding import measure_forwarding
from tests.bench.result import Run
from tests.bench.rig import NotHere, Rig

_HERE: Final = Path(__file__).parent
_INSTALL_TIMEOUT_S: Final = 300


async def measure_quix(rig: Rig, *, events: int) -> Run:
    """Drain a topic of single events; the rate is of input events, by the append time of what was forwarded.

    Raises:
        NotHere: the environment cannot be made.
    """
    command = [str(_python(rig)), str(_HERE / "quix_app.py")]
    return await measure_forwarding(rig, command, kind="events", events=events)


def _python(rig: Rig) -> Path:
    """The Python of the environment, which is made at the first call."""
    environment = rig.folder / "quix"
    python = environment / "bin" / "python"
    if not python.exists():
        rig.say("installing Quix Streams")
        _call(sys.executable, "-m", "venv", "--without-pip", str(environment))
        # The lock is complete, and what is imported is compiled then.
        options = ["--quiet", "--no-deps", "--no-compile", "--only-binary=:all:", "--require-hashes"]
        _call(sys.executable, "-m", "pip", f"--python={python}", "install", *options, f"-r{_HERE / 'quix.lock'}")
    return python


def _call(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines() or ["no message"]
        raise NotHere(f"{' '.join(command[1:3])} failed: {said[-1]}") from error
    except (subprocess.TimeoutExpired, OSError) as error:
        raise NotHere(f"{' '.join(command[1:3])} failed: {error}") from error
