"""`requirements.lock` holds what the members state, all of it, and says nothing about where it came from."""

import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.workspace import MEMBERS, OURS, ROOT, WORKSPACE

LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
EXTERNAL = sorted(
    {
        (project.folder, str(requirement))
        for project in (WORKSPACE, *MEMBERS)
        for requirement in project.requirements
        if canonicalize_name(requirement.name) not in OURS
    }
)


def pins() -> list[Requirement]:
    """Return the lock's pins, each with its marker."""
    return [Requirement(line.rstrip("\\ ")) for line in LOCK.splitlines() if line and not line.startswith((" ", "#"))]


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
    assert not {canonicalize_name(pin.name) for pin in pins()} & OURS


def test_members_ask_for_each_other_in_exactly_their_common_version() -> None:
    (version,) = {member.content["project"]["version"] for member in MEMBERS}
    for member in MEMBERS:
        for requirement in member.run_requirements:
            if canonicalize_name(requirement.name) in OURS:
                assert str(requirement.specifier) == f"=={version}", f"{member.folder}: {requirement}"


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
