"""Python that a member's README shows runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = [
    pytest.param(text, id=f"{readme.parent.relative_to(ROOT)}-{number}")
    for readme in sorted(ROOT.glob("*/README.md")) + sorted(ROOT.glob("*/*/README.md"))
    if ".venv" not in readme.parts
    for number, text in enumerate(re.findall(r"^```python\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("text", BLOCKS)
def test_a_snippet_runs(text: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
