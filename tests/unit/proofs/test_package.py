"""What the package as a whole promises: its names, its weight, its README."""

import re
import subprocess
import sys
from pathlib import Path

import meterproof_proofs

ROOT = Path(__file__).resolve().parents[3]
MEMBER = ROOT / "schemas" / "proofs"


def test_public_names_are_complete_and_sorted() -> None:
    """Constants, then classes, then functions, each in alphabetical order."""
    modules = {path.stem for path in (MEMBER / "meterproof_proofs").iterdir()}
    found = {name for name in vars(meterproof_proofs) if not name.startswith("_")} - modules

    def kind(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    assert meterproof_proofs.__all__ == sorted(found, key=kind)


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
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names)
    parts_of_cryptography = {"cryptography", "_cffi_backend", "_openssl"}
    assert foreign <= {"meterproof_proofs", *parts_of_cryptography}
