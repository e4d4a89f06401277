"""A stranger with nothing but meterproof-proofs, a proof and two public keys: true; a changed proof: false."""

import os
import random
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest

from meterproof_sinks.commands.prove import main as prove
from tests.log_builder import LogBuilder
from tests.packaging.workspace import ROOT
from tests.published_log import publish, vkey_of

CHANGES = 12


def pip(python: str, command: str, *arguments: str) -> None:
    """Run this environment's pip for an interpreter."""
    options = ["--quiet", "--no-deps", "--disable-pip-version-check"]
    whole = [sys.executable, "-m", "pip", "--python", python, command, *options, *arguments]
    subprocess.run(whole, check=True, capture_output=True, timeout=500)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `meterproof` of an empty environment with meterproof-proofs from this checkout, and cryptography as here."""
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    # Building leaves nothing in the checkout. What other processes cache there at this moment may be gone at the next.
    no_cache = shutil.ignore_patterns("__pycache__")
    source = shutil.copytree(ROOT / "schemas" / "proofs", folder / "source", ignore=no_cache)
    pip(sys.executable, "wheel", "--no-build-isolation", "--wheel-dir", str(folder / "wheel"), str(source))
    pip(str(python), "install", "--no-index", *map(str, (folder / "wheel").glob("*.whl")))
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in ("cryptography", "cffi"):
        for file in distribution(name).files or ():
            if ".." not in file.parts:
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), packages / file)
    return folder / "bin" / "meterproof"


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stranger was given."""
    log = LogBuilder()
    log.batch(20)
    folder = tmp_path_factory.mktemp("handed-over")
    publish(folder / "audit", log)
    assert prove(["e7", "--data", str(folder), "--out", str(folder / "e7.proof")]) == 0
    shutil.copytree(next((folder / "audit").glob("*/tlog")), folder / "tlog")
    shutil.rmtree(folder / "audit")
    (folder / "log.vkey").write_text(vkey_of(log))
    (folder / "producer.key").write_text(log.key.entry.public_key or "")
    return folder


def check(stranger: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the proof."""
    return call(stranger, folder, "check", "e7.proof", "--vkey", "log.vkey", "--producer-key", "producer.key")


def call(stranger: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing of this environment is seen."""
    command = [str(stranger), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_a_stranger_is_convinced_by_a_file_and_two_public_keys(stranger: Path, handed_over: Path) -> None:
    done = check(stranger, handed_over)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("true: the event is entry 7 of log ")
    shown = subprocess.run([str(stranger), "--help"], capture_output=True, text=True, timeout=240, check=True).stdout
    assert [line.split()[0] for line in shown.partition("commands:\n")[2].splitlines()] == [
        *("check", "checkpoint", "tlog")
    ]


def test_a_stranger_is_not_convinced_by_a_changed_file(stranger: Path, handed_over: Path) -> None:
    good = (handed_over / "e7.proof").read_bytes()
    draw = random.Random(7)
    try:
        for _ in range(CHANGES):
            at = draw.randrange(len(good))
            (handed_over / "e7.proof").write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            done = check(stranger, handed_over)
            assert done.returncode == 1, (at, done.stdout)
            assert done.stderr.startswith("meterproof check: e7.proof: ")
            assert done.stdout == ""
    finally:
        (handed_over / "e7.proof").write_bytes(good)


def test_a_stranger_verifies_the_published_log(stranger: Path, handed_over: Path) -> None:
    verify = "tlog", "verify", "tlog", "--vkey", "log.vkey"
    done = call(stranger, handed_over, *verify)
    assert (done.returncode, done.stderr) == (0, "")
    tile = next((handed_over / "tlog/tile/0").rglob("[0-9]*[0-9]"))
    good = tile.read_bytes()
    tile.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert call(stranger, handed_over, *verify).returncode == 1
    tile.write_bytes(good)


def test_the_check_loads_only_what_it_needs(stranger: Path, handed_over: Path) -> None:
    """So that it answers at once: what takes longest to load is what it does without."""
    program = (
        "import sys; from meterproof_proofs.command import main; "
        "code = main(['check', 'e7.proof', '--vkey', 'log.vkey']); print(code, *sys.modules)"
    )
    command = [str(stranger.with_name("python")), "-I", "-c", program]
    done = subprocess.run(command, cwd=handed_over, capture_output=True, text=True, timeout=240, check=True)
    code, *loaded = done.stdout.splitlines()[-1].split()
    assert code == "0"
    assert not {"asyncio", "difflib", "email", "importlib.metadata", "zipfile"} & set(loaded)
