"""`./dev` needs Python alone, sets up once, and tells the truth in its exit code and its last line."""

import ast
import hashlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.packaging.workspace import ROOT

DEV = ROOT / "dev"


def run_dev(
    *arguments: str, dev: Path = DEV, variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run `./dev` with these arguments, no terminal, and return what it did."""
    return subprocess.run(
        [dev, *arguments],
        env=os.environ | dict(variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


# --- the script itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sub_command", ["demo", "test", "check", "bench", "chaos", "exec", "lock"])
def test_help_names_every_sub_command(sub_command: str) -> None:
    done = run_dev("--help")
    assert done.returncode == 0
    assert f"\n  {sub_command} " in done.stdout


@pytest.mark.parametrize("arguments", [[], ["no-such-thing"], ["exec"], ["check", "mypy"]])
def test_wrong_usage_exits_2_and_says_why(arguments: list[str]) -> None:
    done = run_dev(*arguments)
    assert done.returncode == 2
    assert "./dev" in done.stderr


def test_it_imports_the_standard_library_only() -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(DEV.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported <= sys.stdlib_module_names


def test_an_old_python_can_read_it_as_far_as_the_message_that_it_is_too_old() -> None:
    ast.parse(DEV.read_text(encoding="utf-8"), feature_version=(3, 6))


# --- test: the last line and the exit code ---------------------------------------------------------------------------

OUTCOMES = {
    "test_passes.py": "def test_a(): pass\ndef test_b(): pass\n",
    "test_fails.py": "def test_c(): assert False\n",
    "test_skips.py": "import pytest\ndef test_d(): pytest.skip('no such machine here')\n",
    "test_module_skips.py": "import pytest\npytest.skip('not on this system', allow_module_level=True)\n",
    "test_expected.py": "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_e(): assert False\n",
    "test_set_up_fails.py": "import pytest\n@pytest.fixture\ndef f(): 1 / 0\ndef test_f(f): pass\n",
    "test_end_fails.py": "import pytest\n@pytest.fixture\ndef f():\n    yield\n    1 / 0\ndef test_g(f): pass\n",
    "test_not_python.py": "def\n",
    "test_crash.py": "import os\ndef test_h(): pass\ndef test_i(): os._exit(9)\n",
}


@pytest.mark.parametrize(
    ("files", "last_line", "code"),
    [
        (["test_passes.py"], "2 passed, 0 failed, 0 skipped", 0),
        (["test_passes.py", "test_fails.py", "test_skips.py"], "2 passed, 1 failed, 1 skipped", 1),
        (["test_module_skips.py", "test_passes.py"], "2 passed, 0 failed, 1 skipped", 0),
        (["test_expected.py"], "0 passed, 0 failed, 1 skipped", 0),
        (["test_set_up_fails.py"], "0 passed, 1 failed, 0 skipped", 1),
        (["test_end_fails.py"], "1 passed, 1 failed, 0 skipped", 1),
        (["test_crash.py"], "1 passed, 1 failed, 0 skipped", 9),
        (["no_such_file.py"], "0 passed, 1 failed, 0 skipped", 4),
    ],
)
def test_the_last_line_counts_and_the_exit_code_agrees(
    tmp_path: Path, files: list[str], last_line: str, code: int
) -> None:
    for name in files:
        if name in OUTCOMES:
            (tmp_path / name).write_text(OUTCOMES[name], encoding="utf-8")
    done = run_dev("test", *(str(tmp_path / name) for name in files))
    assert done.stdout.splitlines()[-1] == last_line
    assert done.returncode == code


def test_two_processes_count_as_one_does(tmp_path: Path) -> None:
    for name in ("test_passes.py", "test_fails.py", "test_skips.py", "test_module_skips.py", "test_end_fails.py"):
        (tmp_path / name).write_text(OUTCOMES[name], encoding="utf-8")
    done = run_dev("test", "--numprocesses=2", str(tmp_path))
    assert done.stdout.splitlines()[-1] == "3 passed, 2 failed, 2 skipped"
    assert done.returncode == 1


SECOND_TRY = """\
import pathlib, pytest


@pytest.mark.flaky(reruns=1)
def test_second_try():
    before = pathlib.Path({path!r})
    if not before.exists():
        before.touch()
        raise TimeoutError("too slow today")


@pytest.mark.flaky(reruns=1)
def test_no_try_helps():
    raise TimeoutError("too slow on all days")
"""


def test_what_passes_at_the_second_try_only_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_tries.py").write_text(SECOND_TRY.format(path=str(tmp_path / "tried")), encoding="utf-8")
    done = run_dev("test", "--numprocesses=2", str(tmp_path))
    assert done.stdout.splitlines()[-2:] == [
        "2 failed at the first try and were tried again: see RERUN above",
        "1 passed, 1 failed, 0 skipped",
    ]
    told = {line.rpartition("::")[2] for line in done.stdout.splitlines() if line.startswith("RERUN ")}
    assert told == {"test_second_try", "test_no_try_helps"}
    assert done.returncode == 1


def test_a_module_that_cannot_be_imported_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "test_not_python.py").write_text(OUTCOMES["test_not_python.py"], encoding="utf-8")
    done = run_dev("test", str(tmp_path))
    passed, failed, skipped = done.stdout.splitlines()[-1].split(", ")
    assert (passed, skipped) == ("0 passed", "0 skipped")
    assert failed != "0 failed"
    assert done.returncode != 0


def test_no_test_at_all_is_not_success(tmp_path: Path) -> None:
    done = run_dev("test", str(tmp_path))
    assert done.stdout.splitlines()[-1] == "0 passed, 0 failed, 0 skipped"
    assert done.returncode == 5


def test_the_reason_of_a_skip_is_shown(tmp_path: Path) -> None:
    (tmp_path / "test_skips.py").write_text(OUTCOMES["test_skips.py"], encoding="utf-8")
    assert "no such machine here" in run_dev("test", str(tmp_path)).stdout


LONG = """\
import os, subprocess, sys, time


def test_long():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open({path!r} + ".part", "w") as file:
        file.write(f"{{os.getpid()}} {{child.pid}}")
    os.rename({path!r} + ".part", {path!r})
    time.sleep(600)
"""


def alive(process: int) -> bool:
    """Return whether a process runs: it exists and is no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc which processes are left")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_is_a_failure(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "test_long.py").write_text(LONG.format(path=str(tmp_path / "processes")), encoding="utf-8")
    with subprocess.Popen(
        [DEV, "test", tmp_path / "test_long.py"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as dev:
        while not (tmp_path / "processes").exists():
            assert dev.poll() is None
            time.sleep(0.02)
        dev.send_signal(number)
        output, _ = dev.communicate()
    assert dev.returncode == 128 + number
    assert output.splitlines()[-1].startswith("0 passed, ")
    assert ", 0 failed" not in output.splitlines()[-1]
    left = [int(one) for one in (tmp_path / "processes").read_text(encoding="ascii").split()]
    while any(alive(process) for process in left):  # killed, but perhaps not buried yet; the test's time limit ends it
        time.sleep(0.02)


# --- chaos -----------------------------------------------------------------------------------------------------------


def test_chaos_hands_its_arguments_on_and_keeps_the_exit_code() -> None:
    assert "--seed" in run_dev("chaos", "--help").stdout
    done = run_dev("chaos", "--only", "no-such-fault")
    assert done.returncode == 2
    assert "kill -9 sequencer-0" in done.stderr


# --- exec ------------------------------------------------------------------------------------------------------------


def test_exec_keeps_folder_and_exit_code_and_finds_the_environment_first(tmp_path: Path) -> None:
    code = "import json, os, sys; print(json.dumps([os.getcwd(), sys.prefix, os.environ['SEEN']])); sys.exit(7)"
    done = subprocess.run(
        [DEV, "exec", "python", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"SEEN": "yes"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    assert json.loads(done.stdout) == [str(tmp_path), str(ROOT / ".venv"), "yes"]


def test_exec_of_an_unknown_command_exits_127() -> None:
    done = run_dev("exec", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


# --- setting up: a workspace of one member and one locked package, all on this disk, no network ----------------------

BACKEND = '''\
"""The smallest build backend: an editable wheel is a .pth file."""
import pathlib, zipfile


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "tiny_member-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as wheel:
        wheel.writestr("tiny_member.pth", str(pathlib.Path.cwd()))
        info = "tiny_member-1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tiny-member\\nVersion: 1\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
'''


class Workspace:
    """A copy of `./dev` in a folder of its own with one member and one locked wheel; lives as long as its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.wheels = folder / "wheels"
        self.home = folder / "home"
        for new in (self.folder / "member", self.wheels, self.home):
            new.mkdir(parents=True)
        (self.folder / "dev").write_bytes(DEV.read_bytes())
        (self.folder / "dev").chmod(0o755)
        (self.folder / "pyproject.toml").write_text(
            '[project]\nname = "w"\n[tool.uv.workspace]\nmembers = ["member"]\n', encoding="utf-8"
        )
        (self.folder / "member" / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "tiny-member"\nversion = "1"\n',
            encoding="utf-8",
        )
        (self.folder / "member" / "backend.py").write_text(BACKEND, encoding="utf-8")
        (self.folder / "member" / "tiny_member.py").write_text("", encoding="utf-8")
        self.lock("1")

    def make_environment(self) -> None:
        """Make `.venv` in a tenth of the time that `./dev` takes for it, which other tests look at."""
        venv.create(self.folder / ".venv", symlinks=True)
        (site,) = self.folder.glob(".venv/lib/*/site-packages")
        for part in Path(sysconfig.get_path("purelib")).glob("pip[!a-z]*"):
            shutil.copytree(part, site / part.name)
        shutil.copytree(Path(sysconfig.get_path("purelib"), "pip"), site / "pip")

    def lock(self, version: str, *, digest: str | None = None) -> None:
        """Make a wheel of this version and lock it, under its own digest or a wrong one."""
        path = self.wheels / f"locked-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("locked.py", f"version = {version!r}\n")
            info = f"locked-{version}.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: locked\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        self._state("w", "locked", version, digest or hashlib.sha256(path.read_bytes()).hexdigest())

    def lock_uv(self, version: str, script: str) -> None:
        """Lock a uv too, which is this script."""
        path = self.wheels / f"uv-{version}-py3-none-any.whl"
        program = zipfile.ZipInfo(f"uv-{version}.data/scripts/uv")
        program.external_attr = 0o100755 << 16  # a regular file that may be executed
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(program, f"#!/bin/sh\n{script}\n")
            info = f"uv-{version}.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: uv\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        self._state("a", "uv", version, hashlib.sha256(path.read_bytes()).hexdigest())

    def _state(self, mode: str, name: str, version: str, digest: str) -> None:
        with (self.folder / "requirements.lock").open(mode, encoding="utf-8") as lock:
            lock.write(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")

    @property
    def variables(self) -> dict[str, str]:
        """The machine's variables with pip held to the wheels of this workspace and away from every index."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "VIRTUAL_ENV"))}
        return kept | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "HOME": str(self.home)}

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Start this workspace's `./dev`."""
        return subprocess.Popen(
            [self.folder / "dev", *arguments],
            env=self.variables | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Run this workspace's `./dev`; return exit code, output and messages."""
        with self.start(*arguments, **variables) as child:
            output, messages = child.communicate()
        return child.returncode, output, messages


ASK = ("exec", "python", "-c", "import locked, tiny_member; print(locked.version)")


def test_it_sets_up_once_and_again_only_for_what_changed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.make_environment()
    code, output, messages = workspace.run(*ASK)
    assert (code, output) == (0, "1\n"), messages
    assert "1 pinned packages" in messages

    assert workspace.run(*ASK) == (0, "1\n", "")

    # A member's pyproject.toml changed: the member is installed again, the locked packages are not.
    with (workspace.folder / "member" / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    code, output, messages = workspace.run(*ASK)
    assert (code, output) == (0, "1\n")
    assert "members" in messages
    assert "pinned" not in messages

    workspace.lock("2")
    code, output, messages = workspace.run(*ASK)
    assert (code, output) == (0, "2\n")
    assert "pinned" in messages

    # A file that is not the one that was locked is not installed, and the next run does not take it for installed.
    workspace.lock("3", digest="0" * 64)
    for _ in range(2):
        code, output, messages = workspace.run(*ASK)
        assert (code, output) == (1, "")
        assert "DO NOT MATCH THE HASHES" in messages
    workspace.lock("3")
    assert workspace.run(*ASK)[:2] == (0, "3\n")


def test_the_uv_that_is_locked_installs_the_packages_and_pip_does_where_it_cannot(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.make_environment()
    real = f'exec {ROOT / ".venv" / "bin" / "uv"} "$@"'
    workspace.lock_uv("1", real)
    code, output, messages = workspace.run(*ASK)
    assert (code, output) == (0, "1\n"), messages
    assert "uv could not" not in messages

    workspace.lock("2", digest="0" * 64)
    workspace.lock_uv("1", real)
    code, output, messages = workspace.run(*ASK)
    assert (code, output) == (1, "")
    assert "DO NOT MATCH THE HASHES" in messages

    workspace.lock("2")
    workspace.lock_uv("2", "exit 1")
    code, output, messages = workspace.run(*ASK)
    assert (code, output) == (0, "2\n"), messages
    assert "uv could not" in messages


@pytest.fixture
def uv_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, str] | None]:
    """What `./dev` tells uv, on a machine where nothing is set for pip yet."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    asked: Callable[[], dict[str, str] | None] = runpy.run_path(str(DEV))["uv_environment"]
    return asked


def test_uv_is_told_the_settings_of_pip(
    uv_environment: Callable[[], dict[str, str] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example/simple https://other.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    told = uv_environment()
    assert told is not None
    assert told["UV_DEFAULT_INDEX"] == "https://index.example/simple"
    assert told["UV_INDEX"] == "https://one.example/simple https://other.example/simple"
    assert told["UV_FIND_LINKS"] == "/wheels,/more"


def test_uv_is_not_used_where_pip_has_a_setting_that_it_has_not(
    uv_environment: Callable[[], dict[str, str] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_PROXY", "proxy.example:3128")
    assert uv_environment() is None


def test_two_at_once_make_one_environment_and_no_home_is_needed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.home.rmdir()
    workspace.home.write_text("a file: nothing can be written below it", encoding="utf-8")
    # Settings that would lead pip out of the environment are somebody's for elsewhere.
    astray = {"PIP_USER": "1", "PIP_TARGET": str(tmp_path / "astray"), "PYTHONPATH": str(tmp_path / "astray")}
    children = [workspace.start(*ASK, **astray) for _ in range(3)]
    done = [(*child.communicate(), child.returncode) for child in children]
    assert [(output, code) for output, _, code in done] == [("1\n", 0)] * 3, done
    assert sum("Set up in" in messages for _, messages, _ in done) == 1
    assert not (tmp_path / "astray").exists()


def test_an_environment_that_does_not_work_is_made_anew(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (workspace.folder / ".venv" / "bin").mkdir(parents=True)
    (workspace.folder / ".venv" / "bin" / "python").symlink_to(tmp_path / "no-such-python")
    (workspace.folder / ".venv" / "dev.json").write_text("{", encoding="utf-8")
    assert workspace.run(*ASK)[:2] == (0, "1\n")

    # The folder was moved: the scripts in .venv/bin still point to where it was.
    workspace.folder = workspace.folder.rename(tmp_path / "moved")
    code, output, messages = workspace.run(*ASK)
    assert (code, output) == (0, "1\n"), messages
    assert "Set up in" in messages
    assert workspace.run("exec", "pip", "--version")[0] == 0
