"""What the commands for outsiders have alike: how they end, and how they are given keys."""

import argparse
import sys
from typing import Final

from meterproof_proofs.key_files import read_verifiers
from meterproof_proofs.note import Verifier

TRUE: Final = 0
"""Exit code: what was to be checked holds."""
FALSE: Final = 1
"""Exit code: it does not."""
_HELP_WIDTH: Final = 100

UNUSABLE: Final = 2
"""Exit code: it cannot be checked, for wrong usage, a file that cannot be read, or want of a key."""


def cannot_begin(command: str, error: Exception | str) -> int:
    """Say on standard error why a command cannot begin; the exit code."""
    reason = f"{error.filename}: cannot be read: {error.strerror}" if isinstance(error, OSError) else error
    sys.stderr.write(f"{command}: {reason}\n")
    return UNUSABLE


def formatter(prog: str) -> argparse.HelpFormatter:
    """How help is set: of a fixed width, for to ask the terminal takes longer to load than a proof takes to check."""
    return argparse.HelpFormatter(prog, width=_HELP_WIDTH)


def add_vkey(parser: argparse.ArgumentParser) -> None:
    """Add the option `--vkey`."""
    parser.add_argument(
        "--vkey",
        action="append",
        required=True,
        metavar="KEY",
        help="Verifier key of the log: as text, a file with one per line, or a folder of *.vkey files. Repeatable.",
    )


def given_verifiers(arguments: argparse.Namespace) -> list[Verifier]:
    """The keys given with `--vkey`.

    Raises:
        NoVerifierKey: there is none, or one is malformed.
    """
    return [key for given in arguments.vkey for key in read_verifiers(given)]
