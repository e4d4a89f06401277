"""What the package as a whole promises: its names, its weight, its README."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import meterproof_proofs

ROOT = Path(__file__).resolve().parents[3]
MEMBER = ROOT / "schemas" / "proofs"


def test_public_names_are_complete_and_sorted() -> None:
    """Constants, then classes, then functions, each in alphabetical order."""
    source = ast.parse((MEMBER / "meterproof_proofs" / "__init__.py").read_text(encoding="utf-8"))
    for_type_checkers = next(node for node in source.body if isinstance(node, ast.If))
    imported = [node for node in for_type_checkers.body if isinstance(node, ast.ImportFrom)]
    found = {alias.name: node.module for node in imported for alias in node.names}

    def kind(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert meterproof_proofs.__all__ == sorted(found, key=kind)
    for name, module in found.items():
        assert getattr(meterproof_proofs, name) is getattr(importlib.import_module(str(module)), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = meterproof_proofs.nothing


def test_every_public_thing_is_documented() -> None:
    for name in meterproof_proofs.__all__:
        public = getattr(meterproof_proofs, name)
        if callable(public):
            assert public.__doc__, name


def test_the_examples_of_the_readme_run() -> None:
    examples = re.findall(r"```python\n(.*?)```", (MEMBER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})  # noqa: S102  # the README is ours


def test_importing_it_loads_nothing_but_cryptography_and_the_standard_library() -> None:
    program = (
        "import sys, importlib.metadata; before = set(sys.modules)\n"
        "import meterproof_proofs, meterproof_proofs.command\n"
        "from meterproof_proofs import *\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names)
    parts_of_cryptography = {"cryptography", "_cffi_backend", "_openssl"}
    assert foreign <= {"meterproof_proofs", *parts_of_cryptography}
