"""How long a stream worker may take for what: the defaults are what the README states, and what is promised."""

import re
from pathlib import Path

from meterproof_stream.settings import WorkerSettings

README = Path(__file__).parents[3] / "stream" / "README.md"
_ROW = re.compile(r"^\| `([A-Z]+(?:_[A-Z]+)*_S)` \| (\d+) \|", re.MULTILINE)


def test_defaults_are_those_of_the_readme() -> None:
    stated = {name.lower(): float(seconds) for name, seconds in _ROW.findall(README.read_text("utf-8"))}
    assert set(stated) == {name for name in WorkerSettings.model_fields if name.endswith("_s")}
    assert stated == {name: WorkerSettings.model_fields[name].default for name in stated}


def test_they_keep_what_is_promised() -> None:
    """SIGTERM ends a worker within 20 s at any moment; a producer refused for a minute is told."""
    defaults = {name: field.default for name, field in WorkerSettings.model_fields.items()}
    assert defaults["stop_deadline_s"] < 20
    assert defaults["refused_after_s"] <= 60
    assert defaults["session_timeout_s"] <= 10
    assert defaults["slow_after_s"] < defaults["stall_timeout_s"]
