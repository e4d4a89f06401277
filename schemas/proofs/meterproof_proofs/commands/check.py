"""`meterproof check`: an event proof and public keys are all it needs."""

import argparse
import json
import sys
from pathlib import Path

from meterproof_proofs.commands.command_line import FALSE, TRUE, add_vkey, cannot_begin, formatter, given_verifiers
from meterproof_proofs.errors import ProofError
from meterproof_proofs.event_proof import ACCEPTED, EventProof, ProvedEvent
from meterproof_proofs.key_files import NoVerifierKey, read_producer_keys

_NAME = "meterproof check"


def main(argv: list[str]) -> int:
    """Check a proof of one event, offline, with public keys alone."""
    arguments = _parser().parse_args(argv)
    try:
        content = sys.stdin.buffer.read() if arguments.file == "-" else Path(arguments.file).read_bytes()
        verifiers = given_verifiers(arguments)
        producer_keys = [key for one in arguments.producer_key for key in read_producer_keys(one)]
    except (OSError, NoVerifierKey) as error:
        return cannot_begin(_NAME, error)
    try:
        proof = EventProof.parse(content)
        proved = proof.verify(verifiers, producer_keys=producer_keys, origin=arguments.origin)
    except ProofError as error:
        if arguments.json:
            sys.stdout.write(json.dumps({"holds": False, "fault": str(error)}) + "\n")
        sys.stderr.write(f"{_NAME}: {arguments.file}: {error}\n")
        return FALSE
    if arguments.json:
        sys.stdout.write(json.dumps(_as_json(proof, proved), indent=2) + "\n")
    else:
        sys.stdout.write(_as_text(proof, proved))
    return TRUE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_NAME,
        formatter_class=formatter,
        description="Check what `meterproof prove` wrote: that an event is in the log, or was refused, as the log's "
        "signed checkpoint says. Needs no network. Exit code: 0 it holds, 1 it does not, 2 it cannot be checked.",
        epilog="Example: meterproof check call-0001.proof --vkey log.vkey --producer-key registry.json",
    )
    parser.add_argument("file", metavar="FILE", help="The proof; - for standard input.")
    add_vkey(parser)
    parser.add_argument(
        "--producer-key",
        action="append",
        default=[],
        metavar="KEY",
        help="Who should have sent it: base64 of the Ed25519 public key, a file of such lines, or a key registry. "
        "Of a registry the keys' dates count too. Without it, who sent the event is not checked.",
    )
    parser.add_argument("--origin", metavar="LOG", help="The log that is meant. Default: any that the keys sign for.")
    parser.add_argument("--json", action="store_true", help="One JSON object, for programs.")
    return parser


def _as_json(proof: EventProof, proved: ProvedEvent) -> dict[str, object]:
    return {
        "holds": True,
        "verdict": proved.verdict,
        "log": proved.origin,
        "index": proved.index,
        "size": proved.checkpoint.size,
        "root": proved.checkpoint.root.hex(),
        "digest": proof.entry.hex(),
        "event": proof.content.decode(errors="replace") if proof.subject == "event" else None,
        "batch_line": proof.index,
        "producer": proved.producer,
        "producer_signature": "verified" if proved.signed_by else "not checked",
        "signed_by": list(proved.signed_by),
        "unverified_signatures": list(proved.unverified),
    }


def _as_text(proof: EventProof, proved: ProvedEvent) -> str:
    what = {"event": "the event", "entry": "an event", "source-record": "a source record"}[proof.subject]
    shown = proof.content.decode(errors="replace") if proof.subject == "event" else proof.content.hex()
    if proved.verdict == ACCEPTED:
        said = f"is entry {proved.index} of log {proved.origin}"
    else:
        said = f"was not accepted ({proved.verdict}), as record {proved.index} of log {proved.origin} says"
    lines = [f"true: {what} {said}", f"  covered by the signed checkpoint of size {proved.checkpoint.size}"]
    if proved.signed_by:
        lines.append(f"  sent by {proved.producer}, signed with key {', '.join(proved.signed_by)}")
    elif proved.producer is not None:
        lines.append(f"  said to be sent by {proved.producer}: not checked, for want of --producer-key")
    if proved.unverified and proved.signed_by:
        lines.append(f"  signatures by keys not given here, which prove nothing: {', '.join(proved.unverified)}")
    return "\n".join([*map(_printable, lines), "", _printable(shown), ""])


def _printable(text: str) -> str:
    """The text without what a terminal would obey: names and events are others' words."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
