"""Earlier builds of these packages, laid out beside the present one, to run their workers in one deployment with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MEMBERS = ("schemas/proofs", "schemas/events", "producers", "stream", "sinks")
"""What a worker imports of ours, each package in the folder of its member."""
PACKAGES = ("meterproof_proofs", "meterproof_schemas", "meterproof", "meterproof_stream", "meterproof_sinks")


def lay_out(commit: str, folder: Path) -> dict[str, str]:
    """Put the packages of a commit into a folder; the environment of a process that imports them from there.

    The command is the installed one, whose entry points name the same modules. Nothing is compiled: where a package has
    C in it, its definitions in Python do the work.

    Skips the test where the commit is not at hand: in an exported tree, or one that was cloned without its history.
    """
    try:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit, "--", *MEMBERS], check=False, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("no git, so there is no earlier build")
    if archive.returncode != 0:
        pytest.skip(f"no history, so there is no earlier build: {archive.stderr.decode().strip()}")
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], check=True, input=archive.stdout)
    environment = {"PYTHONPATH": os.pathsep.join(str(folder / member) for member in MEMBERS)}
    _check(folder, environment)
    return environment


def _check(folder: Path, environment: dict[str, str]) -> None:
    """See that everything is imported from there."""
    ask = f"import {', '.join(PACKAGES)}; print(*(one.__file__ for one in ({', '.join(PACKAGES)})), sep='\\n')"
    answer = subprocess.run(
        [sys.executable, "-c", ask], check=True, capture_output=True, text=True, env=os.environ | environment
    )
    expected = [
        str(folder / member / package / "__init__.py") for member, package in zip(MEMBERS, PACKAGES, strict=True)
    ]
    assert answer.stdout.splitlines() == expected
