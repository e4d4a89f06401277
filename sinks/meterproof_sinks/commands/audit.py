"""`meterproof audit`: read the audit folder; the commands that copy it, or give it up, are beside it."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from meterproof.command_line import run_app
from meterproof.exit_codes import STOPPED
from meterproof_sinks.commands.audit_copy import app as copy_app
from meterproof_sinks.commands.audit_retention import app as retention_app
from meterproof_sinks.event_export import ExportFormat

if TYPE_CHECKING:
    from meterproof_sinks.audit_events import KeptEvent
    from meterproof_sinks.audit_unseen import Unseen
    from meterproof_sinks.event_filter import EventFilter

_FOUND_NOTHING = 1
_POLL_S = 0.5

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Read and copy the audit folder.")
app.add_typer(copy_app)
app.add_typer(retention_app)

_Data = Annotated[Path, typer.Option(help="Data folder, audit folder, or one log's folder.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object per event, its line in it byte for byte.")]
_Agent = Annotated[str | None, typer.Option(help="Only of this agent.")]
_Customer = Annotated[str | None, typer.Option(help="Only of this customer.")]
_Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="FIELD=VALUE, like data.model=gpt-4o or /data/tags/a.b=x; repeat: all must hold."),
]
_From = Annotated[str | None, typer.Option("--from", help="First event time, UTC: 2026-11-21, 2026-11-21T10:00 …")]
_Until = Annotated[str | None, typer.Option("--until", help="First event time that is too late.")]


@app.callback()
def _audit() -> None:
    """Read and copy the audit folder; also while the sink writes it."""


@app.command(
    epilog="Example: meterproof audit tail -n 20 --follow --data data   ·   "
    "meterproof audit tail --customer acme --json"
)
def tail(
    data: _Data = Path("data"),
    count: Annotated[int, typer.Option("--lines", "-n", help="So many events of each log.", min=0, max=10**9)] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what the sink writes, until Ctrl-C.")
    ] = False,
    agent: _Agent = None,
    customer: _Customer = None,
    where: _Where = None,
    as_json: _Json = False,
) -> int:
    """Show the last events of each log, and with --follow those that come.

    --agent, --customer and --where choose among them. How many of them were erased, or given up after their time, is
    told on stderr; with --json, and without --follow, as a last line {"not_there": …}, if there are any.

    Exit code: 0 shown, 1 it cannot be read, 2 wrong usage.
    """
    from meterproof_sinks.audit_events import LogTail
    from meterproof_sinks.audit_unseen import Unseen
    from meterproof_sinks.event_search import logs_of

    wanted = _filter(agent, customer, where)
    logs = logs_of(_folder(data))
    tails = [LogTail(log) for log in logs]
    unseen = Unseen()
    with suppress(KeyboardInterrupt), _reader_may_leave():
        for log, one in zip(logs, tails, strict=True):
            last = one.last(count)
            unseen.note_given_up_before(log, count - len(last))
            _show(unseen.looked_through(last, wanted), as_json=as_json)
        _tell_unseen(unseen, as_json=as_json and not follow)
        while follow:
            sys.stdout.flush()
            time.sleep(_POLL_S)
            for one in tails:
                _show((event for event in one.new() if wanted.matches(event.line)), as_json=as_json)
    return 0


@app.command(
    epilog="Example: meterproof audit grep --agent agent-7 --from 2026-11-20 --until 2026-11-21 --data data   ·   "
    "meterproof audit grep --id 0197-ab --json   ·   meterproof audit grep --where data.status=error --count"
)
def grep(
    data: _Data = Path("data"),
    agent: _Agent = None,
    customer: _Customer = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Only with this event id.")] = None,
    where: _Where = None,
    from_: _From = None,
    until: _Until = None,
    digest: Annotated[
        str | None, typer.Option(help="Only the event with this SHA-256 (64 hex digits), also if it was erased.")
    ] = None,
    erased: Annotated[bool, typer.Option("--erased", help="Only events whose lines were erased.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Say how many, and nothing else.")] = False,
    as_json: _Json = False,
) -> int:
    """Find events. What is asked for must all hold; asked nothing, every event is found.

    How many events were erased that may have been asked for, and how many given up after their time that can have been
    of this time, is told on stderr; with --json as a last line {"not_there": …}, if there are any.

    Exit code: 0 something was found, 1 nothing was (or it cannot be read, which stderr says), 2 wrong usage.
    """
    wanted = _filter(agent, customer, where, event_id=event_id, from_=from_, until=until, digest=digest, erased=erased)
    found = 1  # if the reader leaves, it was shown something
    with _reader_may_leave(), _walked(_folder(data), wanted) as (events, unseen):
        found = sum(1 for _ in events) if count else _show(events, as_json=as_json)
        if count:
            typer.echo(orjson.dumps({"found": found, "not_there": unseen.as_json}) if as_json else found)
        _tell_unseen(unseen, as_json=as_json and not count)
    return 0 if found else _FOUND_NOTHING


@app.command(
    epilog="Example: meterproof audit export --customer acme --from 2026-11-01 --until 2026-12-01 --out acme.csv   ·   "
    "meterproof audit export --out all.parquet --data /mnt/audit"
)
def export(
    data: _Data = Path("data"),
    out: Annotated[
        Path | None, typer.Option(help="File to write, whole or not at all. Default: standard output.")
    ] = None,
    form: Annotated[
        ExportFormat | None, typer.Option("--format", help="Default: by the ending of --out, else jsonl.")
    ] = None,
    agent: _Agent = None,
    customer: _Customer = None,
    where: _Where = None,
    from_: _From = None,
    until: _Until = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --out: say on standard output, as a JSON object, what was written.")
    ] = False,
) -> int:
    """Write events for other programs: JSONL with each line as it is kept, or CSV or Parquet with columns.

    Numbers are exact: JSONL and CSV have them as the events spell them, Parquet as Decimal(38, 12). An erased event is
    written as such, with its digest, when no question is asked that only its line could answer. How many were erased
    that may have been asked for, and how many given up after their time, is told on stderr, and by --json.

    Exit code: 0 written, also if no event was asked for; 1 it could not be; 2 wrong usage.
    """
    from meterproof_sinks.event_export import write_events
    from meterproof_sinks.whole_file import whole_file

    form = form or _form_of(out)
    if out is None and form is ExportFormat.PARQUET:
        raise typer.BadParameter("Parquet goes into a file", param_hint="--out")
    if out is None and as_json:
        raise typer.BadParameter("needs a file to tell about: give --out", param_hint="--json")
    wanted = _filter(agent, customer, where, from_=from_, until=until)
    with _walked(_folder(data), wanted) as (events, unseen):
        if out is None:
            with _reader_may_leave():
                write_events(events, sys.stdout.buffer, form)
            _tell_unseen(unseen)
            return 0
        with whole_file(out) as file:
            written = write_events(events, file, form)
    if as_json:
        typer.echo(orjson.dumps({"out": str(out), "events": written, "not_there": unseen.as_json}))
    else:
        typer.echo(f"{out}: {written:,} events", err=True)
    _tell_unseen(unseen)
    return 0


def _folder(data: Path) -> Path:
    from meterproof_sinks.verification import audit_folder_of

    folder = audit_folder_of(data)
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder}: no such folder", param_hint="--data")
    return folder


def _filter(
    agent: str | None,
    customer: str | None,
    where: list[str] | None,
    *,
    event_id: str | None = None,
    from_: str | None = None,
    until: str | None = None,
    digest: str | None = None,
    erased: bool = False,
) -> "EventFilter":
    from meterproof_sinks.event_filter import BadFilter, EventFilter, Field, instant_us

    named = ((("subject",), agent), (("data", "customer"), customer), (("id",), event_id))
    try:
        from_us = None if from_ is None else instant_us(from_)
        until_us = None if until is None else instant_us(until)
        if from_us is not None and until_us is not None and from_us >= until_us:
            raise BadFilter(f"no moment is from {from_} on and before {until}: --until is the first that is too late")
        return EventFilter(
            (*(Field(path, text) for path, text in named if text is not None), *map(Field.parse, where or ())),
            from_us,
            until_us,
            _digest(digest),
            erased,
        )
    except BadFilter as error:
        raise typer.BadParameter(str(error)) from error


def _digest(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise typer.BadParameter("a SHA-256 has 64 hexadecimal digits", param_hint="--digest")
    return digest


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """End quietly when whoever reads standard output has enough, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at the end


@contextmanager
def _walked(folder: Path, wanted: "EventFilter") -> "Iterator[tuple[Iterator[KeptEvent], Unseen]]":
    """The events that are wanted, and what is not there any more of them.

    There is a progress bar where somebody looks at a terminal and not at the events.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from meterproof_sinks.audit_events import count_events, kept_events
    from meterproof_sinks.audit_unseen import Unseen
    from meterproof_sinks.event_search import logs_of

    looked_at = sys.stderr.isatty() and not sys.stdout.isatty()
    with Progress(
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not looked_at,
    ) as progress:
        task = progress.add_task("read", total=sum(map(count_events, logs_of(folder))) if looked_at else None)
        read = kept_events(folder, lambda stored: progress.advance(task, stored.events))
        unseen = Unseen()
        unseen.note_given_up(folder, wanted)
        yield unseen.looked_through(read, wanted), unseen


def _tell_unseen(unseen: "Unseen", *, as_json: bool = False) -> None:
    """Say what is not there any more of what was asked for, if anything."""
    if as_json and unseen.as_json:
        typer.echo(unseen.as_json_line)
    for line in unseen.as_lines:
        typer.echo(line, err=True)


def _show(events: "Iterable[KeptEvent]", *, as_json: bool) -> int:
    """Print events; how many."""
    shown = 0
    for shown, event in enumerate(events, 1):  # noqa: B007 - the count outlives the loop
        sys.stdout.write((event.as_json().decode() if as_json else _spelled(event)) + "\n")
    return shown


def _spelled(event: "KeptEvent") -> str:
    """An event on one line, for people."""
    from meterproof_sinks.event_export import columns_of

    place = f"{event.log.rsplit('/', 1)[-1]} {event.position}"
    if event.erased is not None:
        return f"{place}  erased, SHA-256 {event.erased}"
    row = columns_of(event)
    what = [str(row[name]) for name in ("operation", "model", "status") if name in row]
    usage = [f"{meter}={quantity}" for meter, quantity in row["usage"].items()]
    parts = (place, row["time"], row["customer"], row["agent"], " ".join(what), " ".join(usage), row["id"])
    return "  ".join(_visible(part) for part in parts if part)


def _visible(text: str) -> str:
    """A text without characters that would command the terminal: names come from producers."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _form_of(out: Path | None) -> ExportFormat:
    endings = {f".{form.value}": form for form in ExportFormat}
    return ExportFormat.JSONL if out is None else endings.get(out.suffix.lower(), ExportFormat.JSONL)


def main(argv: list[str]) -> int:
    """Read the audit folder, export from it, keep a copy of it in an object store."""
    from meterproof.health import PortTaken
    from meterproof_sinks.audit_errors import AuditError
    from meterproof_sinks.event_export import NoParquet
    from meterproof_sinks.legal_holds import HoldError
    from meterproof_sinks.object_store import ObjectDiffers, StoreProblem

    try:
        expected = (AuditError, HoldError, NoParquet, StoreProblem, PortTaken, OSError)
        return run_app(app, "meterproof audit", argv, expected)
    except ObjectDiffers as error:
        sys.stderr.write(f"meterproof audit: {error}\n")
        return STOPPED
