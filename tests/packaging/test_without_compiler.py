"""Members with a part in C are built without a compiler all the same, and do the same without it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_TREE = "from meterproof_proofs import python_tree_hashing as p, tree_hashing as u; print(u.digests is p.digests)"
_LINES = (
    "from meterproof_schemas import python_plain_lines as p, plain_lines as u, ed25519_checks as c, batch as b;"
    "from meterproof_schemas import python_identity_table as q, identity_table as v;"
    "print(u.read_plain_lines is p.read_plain_lines and not c.NATIVE and b.read_usual_batch.__module__ == b.__name__"
    " and v.IdentityTable is q.IdentityTable)"
)
_PLACES = "from meterproof_stream import python_place_table as p, place_table as u; print(u.PlaceTable is p.PlaceTable)"


@pytest.mark.parametrize(
    ("member", "package", "code"),
    [
        ("schemas/proofs", "meterproof_proofs", _TREE),
        ("schemas/events", "meterproof_schemas", _LINES),
        ("stream", "meterproof_stream", _PLACES),
    ],
)
def test_without_a_compiler(
    member: str, package: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    source = tmp_path / "source"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."]
    names = subprocess.run(listed, cwd=ROOT / member, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / member / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "."]
    done = subprocess.run([*build, "-w", str(tmp_path)], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    of_package = {name for name in names if name.startswith(f"{package}/") and not name.endswith(".c")}
    assert {name for name in packed if name.startswith(f"{package}/")} == of_package
    told = subprocess.run(
        [sys.executable, "-c", f"import {package}; print({package}.__file__); {code}"],
        env={"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert told[0].startswith(str(tmp_path))
    assert told[1] == "True"
