"""Other people's programs, built from exact versions into a cache; what cannot be had is skipped, with the reason.

The first use needs the registries of Go modules, npm and PyPI; later ones need no network. With
`METERPROOF_INTEROP=required` a tool that cannot be had is a failure, for machines that are meant to have them all.
"""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

_HERE: Final = Path(__file__).resolve().parent
_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meterproof" / "interop"
_PYTHON_PROGRAMS: Final = {
    "verify-metamorphic": "verify_metamorphic.py",
    "verify-standardwebhooks": "verify_standardwebhooks.py",
}
_BUILD_TIMEOUT_S: Final = 280
_RUN_TIMEOUT_S: Final = 120

ran: dict[str, int] = {}
"""How often each tool was run."""
missing: dict[str, str] = {}
"""The tools that cannot be had, and why."""


class NotHere(Exception):
    """A tool cannot be had on this machine; the text says why."""


def verdict(tool: str, *arguments: str | Path) -> tuple[int, str]:
    """Run a verifier; its exit code, and what it said. Skips the test if the tool cannot be had."""
    try:
        command = [*program(tool), *map(str, arguments)]
    except NotHere as reason:
        missing[tool] = str(reason)
        if os.environ.get("METERPROOF_INTEROP") == "required":
            pytest.fail(f"{tool}: {reason}")
        pytest.skip(f"{tool}: {reason}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RUN_TIMEOUT_S)
    ran[tool] = ran.get(tool, 0) + 1
    return done.returncode, done.stdout + done.stderr


def program(tool: str) -> list[str]:
    """What runs a tool, built if it is not yet.

    Raises:
        NotHere: it cannot be had.
    """
    if tool == "verify-sigstore":
        folder = _built("node", ("node", "npm"), _install_node_packages)
        return ["node", str(folder / "verify-sigstore.js")]
    if tool in _PYTHON_PROGRAMS:
        folder = _built("python", (), _install_python_packages)
        return [str(folder / "bin" / "python"), str(_HERE / "python" / _PYTHON_PROGRAMS[tool])]
    return [str(_built("go", ("go",), _build_go_programs) / tool)]


def _build_go_programs(source: Path, into: Path) -> None:
    _call("go", "build", "-trimpath", "-o", f"{into}/", "./...", folder=source)


def _install_node_packages(source: Path, into: Path) -> None:
    for file in source.iterdir():
        if file.is_file():
            shutil.copy(file, into)
    _call("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", folder=into)


def _install_python_packages(source: Path, into: Path) -> None:
    _call(sys.executable, "-m", "venv", str(into), folder=source)
    _call(f"{into}/bin/pip", "install", "-q", "--only-binary", ":all:", "-r", "requirements.txt", folder=source)


def _call(*command: str, folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=_BUILD_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines() or ["no message"]
        raise NotHere(f"{' '.join(command[:2])} failed: {said[-1]}") from error
    except (subprocess.TimeoutExpired, OSError) as error:
        raise NotHere(f"{' '.join(command[:2])} failed: {error}") from error


@functools.cache
def _attempt(kind: str, build: Callable[[Path, Path], None]) -> Path | NotHere:
    """The folder with what was built from the sources as they are now; a failed attempt is not repeated."""
    source = _HERE / kind
    files = sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()[:16]
    into = _CACHE / f"{kind}-{digest}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    failed, waiting_since_ns = _CACHE / f"{kind}.failed", time.time_ns()
    with (_CACHE / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (into / "complete").exists():
            if failed.exists() and failed.stat().st_mtime_ns > waiting_since_ns:
                return NotHere(failed.read_text())  # of another process's attempt: to wait once more is too long
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir()
            try:
                build(source, into)
            except NotHere as reason:
                failed.write_text(str(reason))
                return reason
            (into / "complete").touch()
    return into


def _built(kind: str, needs: tuple[str, ...], build: Callable[[Path, Path], None]) -> Path:
    for program in needs:
        if shutil.which(program) is None:
            raise NotHere(f"{program} is not installed")
    folder = _attempt(kind, build)
    if isinstance(folder, NotHere):
        raise folder
    return folder
