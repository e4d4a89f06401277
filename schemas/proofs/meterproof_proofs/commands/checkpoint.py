"""`meterproof checkpoint compare`: do two signed checkpoints tell one story?"""

import argparse
import json
import sys
from pathlib import Path

from meterproof_proofs.canonical_base64 import decode_base64
from meterproof_proofs.checkpoint import Checkpoint
from meterproof_proofs.checkpoint_comparison import Comparison, compare_checkpoints, read_tlog
from meterproof_proofs.commands.command_line import add_vkey, cannot_begin, given_verifiers
from meterproof_proofs.errors import ProofError
from meterproof_proofs.key_files import NoVerifierKey
from meterproof_proofs.note import SignedNote

_NAME = "meterproof checkpoint"
_EXIT_CODES = {"same": 0, "consistent": 0, "fork": 1, "unknown": 3}


def main(argv: list[str]) -> int:
    """Compare two signed checkpoints of a log: same, consistent, fork or unknown."""
    arguments = _parser().parse_args(argv)
    try:
        verifiers = given_verifiers(arguments)
        first, second = (Path(file).read_bytes() for file in (arguments.first, arguments.second))
        proof = None if arguments.proof is None else _read_proof(Path(arguments.proof))
    except (OSError, NoVerifierKey, _NoProof) as error:
        return cannot_begin(_NAME, error)
    read = None if arguments.tlog is None else read_tlog(Path(arguments.tlog))
    try:
        comparison = compare_checkpoints(first, second, verifiers, read=read, proof=proof)
    except ProofError as error:
        message = f"{_culprit(arguments, first)}: {error}"
        if arguments.json:
            sys.stdout.write(json.dumps({"verdict": "unverified", "fault": message}) + "\n")
        return cannot_begin(_NAME, message)
    _show(comparison, as_json=arguments.json)
    return _EXIT_CODES[comparison.verdict]


class _NoProof(Exception):
    """The file is no list of hashes."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_NAME,
        description="Compare two signed checkpoints: a log that showed you one tree and others another has forked.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    compare = commands.add_parser(
        "compare",
        help="Say whether two signed checkpoints are same, consistent, fork or unknown.",
        description="Say whether two signed checkpoints of one log tell one story. Exit code: 0 the same, or the "
        "larger extends the smaller one; 1 a fork: one key signed two histories; 2 they cannot be compared (a wrong "
        "signature, another log, no such file); 3 unknown: of different sizes, and nothing was given that shows how "
        "one became the other.",
        epilog="Example: meterproof checkpoint compare mine.checkpoint data/audit/LOG/tlog/checkpoint --vkey log.vkey "
        "--tlog data/audit/LOG/tlog",
    )
    compare.add_argument("first", metavar="A", help="A signed checkpoint.")
    compare.add_argument("second", metavar="B", help="Another of the same log.")
    add_vkey(compare)
    source = compare.add_mutually_exclusive_group()
    source.add_argument("--tlog", metavar="DIR", help="The log as tiles: the folder that holds tile/, or a copy of it.")
    source.add_argument("--proof", metavar="FILE", help="A consistency proof: the base64 of one hash per line.")
    compare.add_argument("--json", action="store_true", help="One JSON object, for programs.")
    return parser


def _culprit(arguments: argparse.Namespace, first: bytes) -> str:
    """Name the file that an error is about where that can be told from it alone."""
    try:
        Checkpoint.parse(SignedNote.parse(first).text)
    except ProofError:
        return str(arguments.first)
    return f"{arguments.first} and {arguments.second}"


def _read_proof(file: Path) -> list[bytes]:
    hashes = []
    for number, line in enumerate(file.read_bytes().decode("ascii", "replace").splitlines(), 1):
        raw = decode_base64(line)
        if raw is None:
            raise _NoProof(f"{file}, line {number}: not canonical standard base64")
        hashes.append(raw)
    return hashes


def _show(comparison: Comparison, *, as_json: bool) -> None:
    old, new = comparison.old, comparison.new
    if as_json:
        facts = {
            "verdict": comparison.verdict,
            "log": old.origin,
            "old": {"size": old.size, "root": old.root.hex()},
            "new": {"size": new.size, "root": new.root.hex()},
            "detail": comparison.detail,
        }
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    sys.stdout.write(
        f"{comparison.verdict}: {comparison.detail}\n  log {old.origin}, sizes {old.size} and {new.size}\n"
    )
