"""`meterproof prove`: one event's proof as a file, for anybody with the public keys."""

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from meterproof.command_line import USAGE, run_app

_FALSE = 1

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: meterproof prove call-0001 --data data --out call-0001.proof   ·   "
    "meterproof prove --line refused.json --data data --out refused.proof"
)
def prove(
    event_id: Annotated[str | None, typer.Argument(help="Id of an accepted event.")] = None,
    data: Annotated[Path, typer.Option(help="Data folder, audit folder, or one log's folder.")] = Path("data"),
    source: Annotated[
        str | None, typer.Option(help="The event's source, where several have events of this id.")
    ] = None,
    line: Annotated[
        Path | None,
        typer.Option(
            help="The event's line as it was sent: for what was refused, of which the log has the digest only."
        ),
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(help="SHA-256 of the event's line, or of a whole batch that was refused, in hexadecimal."),
    ] = None,
    log: Annotated[str | None, typer.Option(help="Origin of the log that is meant, where several have it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the proof goes. Default: standard output.")] = None,
    tlog_proof: Annotated[
        bool,
        typer.Option("--tlog-proof", help="Write the inclusion proof alone (c2sp.org/tlog-proof), for other programs."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say what was proved as one JSON object; needs --out.")
    ] = False,
) -> None:
    """Write a file that shows, to anybody with the public keys, that an event is in the log, or why it was refused.

    `meterproof check` reads it. It holds the event, its paths in the log and in its producer's signed batch, and signed
    checkpoints; of other events it holds hashes only. Needs no key, no broker and no database.

    Ends with 0 if the proof was written, 1 if it cannot be made, 2 for wrong usage.
    """
    from meterproof_sinks.event_search import events_with_id, verdicts_on
    from meterproof_sinks.proving import prove as make_proof
    from meterproof_sinks.verification import audit_folder_of
    from meterproof_sinks.whole_file import whole_file

    if (event_id is None) + (line is None) + (digest is None) != 2:
        raise _Usage("give one of EVENT_ID, --line and --digest")
    if as_json and out is None:
        raise _Usage("--json needs --out: standard output can be the proof or what is said of it")
    folder = audit_folder_of(data)
    if not folder.is_dir():
        raise _Usage(f"{folder}: no such folder; give a deployment's data folder, or a copy of its audit folder")
    content = None if line is None else line.read_bytes().removesuffix(b"\n")
    if event_id is not None:
        found = list(events_with_id(folder, event_id))
    else:
        found = list(verdicts_on(folder, _digest(content, digest)))
    wanted = [one for one in found if log in {None, one.origin} and (source is None or one.source in {None, source})]
    if event_id is not None and len({(one.source, one.origin) for one in wanted}) > 1:
        places = "; ".join(f"--source {one.source} --log {one.origin}" for one in wanted)
        raise _NotProved(f"several accepted events have the id {event_id!r}; choose one by {places}")
    if not wanted:
        raise _NotProved(_not_found(event_id, elsewhere=bool(found)) + _given_up(folder))
    chosen = next((one for one in wanted if one.line is not None), wanted[0])
    proof = make_proof(chosen, content)
    written = proof.tlog_proof.format() if tlog_proof else proof.format()
    if out is None:
        sys.stdout.buffer.write(written)
        sys.stdout.buffer.flush()
        return
    with whole_file(out) as file:
        file.write(written)
    index = proof.tlog_proof.index
    said = {"file": str(out), "verdict": chosen.verdict, "log": chosen.origin, "index": index, "bytes": len(written)}
    if as_json:
        typer.echo(orjson.dumps(said, option=orjson.OPT_INDENT_2))
    else:
        typer.echo(f"{out}: {chosen.verdict}, entry {index} of {chosen.origin}, {len(written):,} bytes")


class _Usage(Exception):
    """Wrong usage."""


class _NotProved(Exception):
    """There is nothing to prove, or too much."""


def _digest(line: bytes | None, digest: str | None) -> bytes:
    from meterproof_schemas.event import entry_of

    if line is not None:
        return entry_of(line)
    try:
        raw = bytes.fromhex(digest or "")
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise _Usage(f"--digest {digest}: a SHA-256 digest has 64 hexadecimal digits")
    return raw


def _not_found(event_id: str | None, *, elsewhere: bool) -> str:
    if elsewhere:
        return "found, but not under the --source or --log given"
    if event_id is None:
        return "no log here knows it: it did not arrive, or its record is not on disk yet"
    return (
        f"no accepted event here has the id {event_id!r}. If it was refused, the log has the digest of its line alone: "
        "give the line with --line FILE (`meterproof rejected` shows what was refused)"
    )


def _given_up(folder: Path) -> str:
    """What else to say where an event may be among those that were given up."""
    from meterproof_sinks.event_search import logs_of
    from meterproof_sinks.given_up import beginning_of

    beginnings = [one for one in map(beginning_of, logs_of(folder)) if one is not None]
    return "".join(f". Positions below {one.end.size} of {one.origin} were given up" for one in beginnings)


def main(argv: list[str]) -> int:
    """Write one event's proof to a file: in the log, or refused and why."""
    from meterproof_proofs.errors import ProofError
    from meterproof_sinks.audit_errors import AuditError
    from meterproof_sinks.proving import CannotProve

    try:
        return run_app(app, "meterproof prove", argv, (_NotProved, CannotProve, AuditError, ProofError, OSError))
    except _Usage as error:
        sys.stderr.write(f"meterproof prove: {error}\n")
        return USAGE
