"""`meterproof tlog verify`: verify a log as it is published, whoever wrote it."""

import argparse
import json
import sys
from pathlib import Path

from meterproof_proofs.commands.command_line import FALSE, TRUE, add_vkey, cannot_begin, given_verifiers
from meterproof_proofs.key_files import NoVerifierKey
from meterproof_proofs.published_log import PublishedLogReport, verify_published_log

_NAME = "meterproof tlog"


def main(argv: list[str]) -> int:
    """Verify a published log: its tiles, entries and checkpoint, and earlier checkpoints."""
    arguments = _parser().parse_args(argv)
    folder = Path(arguments.folder)
    if not folder.is_dir():
        return cannot_begin(_NAME, f"{folder}: no such folder; give the one that holds checkpoint and tile/")
    try:
        verifiers = given_verifiers(arguments)
        kept = {given: _files(Path(given)) for given in arguments.since}
        if not all(kept.values()):
            empty = next(given for given, files in kept.items() if not files)
            return cannot_begin(_NAME, f"{empty}: holds no checkpoint")
        remembered = [(file, file.read_bytes()) for files in kept.values() for file in files]
        report = verify_published_log(folder, verifiers, origin=arguments.origin, remembered=remembered)
    except (OSError, NoVerifierKey) as error:
        return cannot_begin(_NAME, error)
    _show(report, as_json=arguments.json)
    return TRUE if report.holds else FALSE


def _files(given: Path) -> list[Path]:
    return sorted(given.iterdir()) if given.is_dir() else [given]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_NAME, description="Logs as they are published (c2sp.org/tlog-tiles).")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    verify = commands.add_parser(
        "verify",
        help="Verify a published log from its files and its key alone.",
        description="Hash every entry again, derive every tile and the root, and compare them with the files and the "
        "signed checkpoint; nothing may be missing and nothing too much. Any log in this format will do, whoever "
        "wrote it; `meterproof verify` does this for our audit folders, and their lines and signatures beside. A "
        "folder that was rolled back with its checkpoint is whole in itself: only --since shows it. Exit code: 0 it "
        "holds, 1 it does not, 2 it cannot be verified.",
        epilog="Example: meterproof tlog verify copy-of-tlog --vkey log.vkey --since kept.checkpoint",
    )
    verify.add_argument("folder", metavar="DIR", help="The folder that holds checkpoint and tile/, or a copy of it.")
    add_vkey(verify)
    verify.add_argument(
        "--since",
        action="append",
        default=[],
        metavar="FILE",
        help="A signed checkpoint kept from before, or a folder of them: the log must extend it. Repeatable.",
    )
    verify.add_argument("--origin", metavar="LOG", help="The log that is meant. Default: any that the keys sign for.")
    verify.add_argument("--json", action="store_true", help="One JSON object, for programs.")
    return parser


def _show(report: PublishedLogReport, *, as_json: bool) -> None:
    checkpoint = report.checkpoint
    if as_json:
        facts = {
            "holds": report.holds,
            "log": None if checkpoint is None else checkpoint.origin,
            "size": None if checkpoint is None else checkpoint.size,
            "root": None if checkpoint is None else checkpoint.root.hex(),
            "files": report.files,
            "faults": [
                {"file": str(fault.file), "position": fault.position, "fault": fault.fault} for fault in report.faults
            ],
        }
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    for fault in report.faults:
        sys.stderr.write(f"{_NAME}: {fault}\n")
    if report.holds and checkpoint is not None:
        sys.stdout.write(
            f"true: the {checkpoint.size} entries of log {checkpoint.origin} give its {report.files} files and the "
            "signed root\n"
        )
