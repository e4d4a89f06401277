"""`requirements.lock` holds what the members state, all of it, and says nothing about where it came from."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def projects() -> dict[str, dict[str, object]]:
    """Read every pyproject.toml of the workspace, by its folder."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = [".", *root["tool"]["uv"]["workspace"]["members"]]
    return {folder: tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8")) for folder in folders}


def stated(project: dict[str, object]) -> list[Requirement]:
    """Return every requirement of a project: to build it, to run it, for its extras and its groups."""
    table = project["project"]
    assert isinstance(table, dict)
    build = project.get("build-system", {})
    assert isinstance(build, dict)
    groups = project.get("dependency-groups", {})
    assert isinstance(groups, dict)
    lines = [*build.get("requires", []), *table.get("dependencies", [])]
    for extra in (*table.get("optional-dependencies", {}).values(), *groups.values()):
        lines.extend(extra)
    return [Requirement(line) for line in lines]


def pins() -> list[Requirement]:
    """Return the lock's pins, each with its marker."""
    return [Requirement(line.rstrip("\\ ")) for line in LOCK.splitlines() if line and not line.startswith((" ", "#"))]


def member_names() -> set[str]:
    """Return the names of our own distributions."""
    names: set[str] = set()
    for project in projects().values():
        table = project["project"]
        assert isinstance(table, dict)
        names.add(canonicalize_name(table["name"]))
    return names


EXTERNAL = sorted(
    {
        (folder, str(requirement))
        for folder, project in projects().items()
        for requirement in stated(project)
        if canonicalize_name(requirement.name) not in member_names()
    }
)


@pytest.mark.parametrize(("folder", "line"), EXTERNAL)
def test_a_stated_dependency_is_pinned_to_a_version_that_fits(folder: str, line: str) -> None:
    requirement = Requirement(line)
    found = [pin for pin in pins() if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    assert found, f"{folder}/pyproject.toml states {line}, which requirements.lock does not hold: run ./dev lock"
    for pin in found:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version, prereleases=True), f"{folder}: {line} but {pin}"


def test_our_own_distributions_are_not_locked() -> None:
    assert not {canonicalize_name(pin.name) for pin in pins()} & member_names()


def test_members_ask_for_each_other_in_exactly_their_common_version() -> None:
    versions: set[str] = set()
    for folder, project in projects().items():
        table = project["project"]
        assert isinstance(table, dict)
        if folder != ".":
            versions.add(table["version"])
            ours = [one for one in stated(project) if canonicalize_name(one.name) in member_names()]
            assert all(str(one.specifier) == f"=={table['version']}" for one in ours), folder
    assert len(versions) == 1


def test_every_pin_has_the_hash_of_each_of_its_files() -> None:
    entries = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(entries) == len(pins())
    for entry in entries:
        _, *hashes = entry.replace("\\\n", "\n").splitlines()
        assert hashes, entry
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}\s*", line) for line in hashes), entry


def test_the_lock_names_no_host_no_path_and_no_option() -> None:
    for line in LOCK.splitlines():
        assert "://" not in line
        assert "@" not in line
        assert not line.startswith(("-", "/", "."))
        assert line.startswith("    --hash=sha256:") or re.match(r"[a-z0-9-]+==[\w.]+( ; [^/]+)? \\$", line), line


def test_no_file_of_the_repository_is_a_lock_with_hosts_in_it() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this is not a git checkout, so there is no list of its files")
    names = listed.stdout.splitlines()
    assert "requirements.lock" in names
    assert not [name for name in names if Path(name).name in {"uv.lock", "poetry.lock", "Pipfile.lock", "pip.conf"}]
    # Written in two halves, so that this file does not name them either.
    hosts = re.compile(r"(?:files\.python" + r"hosted|pypi" + r"\.org/simple|registry\.np" + r"mjs)")
    for name in names:
        path = ROOT / name
        if path.is_file() and path.suffix in {
            "",
            ".lock",
            ".toml",
            ".txt",
            ".cfg",
            ".py",
            ".md",
            ".yaml",
            ".yml",
            ".json",
        }:
            assert not hosts.search(path.read_text(encoding="utf-8", errors="replace")), name
