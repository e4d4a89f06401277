"""What the pyproject.toml files of the workspace say, for the tests that hold the workspace to it."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """One pyproject.toml, read once: a member, or the workspace itself (folder `.`)."""

    folder: str
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """The distribution's name, normalized."""
        return canonicalize_name(self.content["project"]["name"])

    @property
    def package(self) -> str:
        """The name that programs import."""
        return self.name.replace("-", "_")

    @property
    def path(self) -> Path:
        """The folder of the package."""
        return ROOT / self.folder / self.package

    @property
    def run_requirements(self) -> list[Requirement]:
        """What must be installed to run it, extras included."""
        table = self.content["project"]
        lines = [*table.get("dependencies", []), *(one for extra in self.extras.values() for one in extra)]
        return [Requirement(line) for line in lines]

    @property
    def requirements(self) -> list[Requirement]:
        """All that is stated: to build it, to run it, for its extras and its groups."""
        build = self.content.get("build-system", {}).get("requires", [])
        groups = [one for group in self.content.get("dependency-groups", {}).values() for one in group]
        return [*self.run_requirements, *(Requirement(line) for line in (*build, *groups))]

    @property
    def extras(self) -> dict[str, list[str]]:
        """The optional dependencies, by extra."""
        extras: dict[str, list[str]] = self.content["project"].get("optional-dependencies", {})
        return extras


def _read(folder: str) -> Project:
    return Project(folder, tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8")))


WORKSPACE = _read(".")
MEMBERS = [_read(folder) for folder in WORKSPACE.content["tool"]["uv"]["workspace"]["members"]]
OURS = {project.name for project in (WORKSPACE, *MEMBERS)}
