"""Each member states what it imports, so that it works where it is installed alone."""

import ast
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.utils import canonicalize_name

from tests.packaging.workspace import MEMBERS, Project

STDLIB = {*sys.stdlib_module_names, "compression"}
"""`compression` is in the standard library from Python 3.14 on; a member that imports it states what serves before."""

each_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)


def imported(member: Project) -> dict[str, str]:
    """Return the top-level names that a member's code imports, wherever it does so, with one place of each."""
    found: dict[str, str] = {}
    for path in sorted(member.path.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                found.setdefault(name.partition(".")[0], f"{path.name}:{node.lineno}")
    return found


@each_member
def test_a_member_states_every_distribution_it_imports(member: Project) -> None:
    distributions = {**packages_distributions(), **{one.package: [one.name] for one in MEMBERS}}
    stated = {canonicalize_name(requirement.name) for requirement in member.run_requirements}
    missing = {}
    for name, place in imported(member).items():
        provided_by = {canonicalize_name(one) for one in distributions.get(name, [])}
        if name not in STDLIB and name != member.package and not stated.intersection(provided_by):
            missing[name] = f"imported in {place}, so {member.folder}/pyproject.toml must state it"
    assert not missing


def test_proofs_ask_for_cryptography_alone() -> None:
    (proofs,) = [member for member in MEMBERS if member.name == "meterproof-proofs"]
    assert [requirement.name for requirement in proofs.run_requirements] == ["cryptography"]


@each_member
def test_a_member_says_that_it_is_typed_and_under_which_licence(member: Project) -> None:
    assert (member.path / "py.typed").exists()
    table = member.content["project"]
    assert "Typing :: Typed" in table["classifiers"]
    assert table["license"] == "Apache-2.0"
    assert table["requires-python"] == ">=3.11"
    assert (member.path.parent / table["readme"]).exists()
