"""The command `meterproof` as a process of its own, of the members that are installed."""

import subprocess
import sys
from pathlib import Path

PROGRAM = (sys.executable, "-c", "import sys; from meterproof_proofs.command import main; sys.exit(main())")
"""To put sub-command and options behind."""


def run_meterproof(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end over a data folder, whatever its exit code."""
    return subprocess.run([*PROGRAM, *arguments, "--data", str(data)], check=False, capture_output=True, text=True)
