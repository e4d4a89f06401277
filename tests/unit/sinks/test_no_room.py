"""A file for which there is no room is named, and nothing is left of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meterproof_sinks.whole_file import whole_file

_LIMITED = """
import resource, sys
from meterproof_sinks.commands.audit import main
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
sys.exit(main(sys.argv[1:]))
"""


def test_a_command_names_the_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    hold = ("hold", "add", "--all", "--by", "legal", "--reason", "case 12", "--data", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", _LIMITED, *hold], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"meterproof audit: [Errno 27] File too large: '{tmp_path / 'holds.jsonl'}'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no pipe has a path here")
def test_a_pipe_is_written_into_by_the_path_that_a_shell_gives_it() -> None:
    reading, writing = os.pipe()
    try:
        with whole_file(Path(f"/dev/fd/{writing}")) as file:
            file.write(b"a proof")
        assert os.read(reading, 100) == b"a proof"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
def test_a_file_that_a_command_was_asked_for_is_named() -> None:
    with pytest.raises(OSError, match="/dev/full"), whole_file(Path("/dev/full")) as file:
        file.write(b"a proof")
