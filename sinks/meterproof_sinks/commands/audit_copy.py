"""`meterproof audit ship|fetch`: keep a copy of the audit folder in an object store, and bring it back."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from meterproof_sinks.commands.options import AsJson, Audit, Data

if TYPE_CHECKING:
    from meterproof_sinks.audit_copy import Copied

app = typer.Typer()

_Url = Annotated[
    str, typer.Argument(metavar="URL", help="s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, a folder.")
]


@app.command(
    epilog="Example: meterproof audit ship s3://audit-copy/prod --data data   ·   "
    "meterproof audit ship /mnt/backup/audit --follow --interval-s 300"
)
def ship(
    url: _Url,
    data: Data = Path("data"),
    folder: Audit = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is sealed later, until SIGTERM.")] = False,
    interval_s: Annotated[float, typer.Option(help="With --follow: seconds between two looks.", min=0.1)] = 60.0,
    as_json: AsJson = False,
) -> int:
    """Copy sealed segments, price books, tiles and checkpoints to an object store, each read back and compared.

    What is there and equal is skipped, so a run that was cut off goes on. Nothing is overwritten with other content.
    Segments that are still written are not copied, and how many events they hold is told: the sink's --segment-age-h
    and --segment-mib bound it. The copy's checkpoint is the newest that does without them.
    Credentials come from the environment, for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT.

    Exit code: 0 all that is sealed is there, or stopped as asked; 1 the store or the folder cannot be used; 2 wrong
    usage; 70 unexpected error; 78 copy and folder contradict each other: a person must look.
    """
    from meterproof_sinks.audit_copy import copy_audit
    from meterproof_sinks.audit_ship import run_ship_process
    from meterproof_sinks.object_store import ObjectStore

    audit = folder or data / "audit"
    if not audit.is_dir():
        raise typer.BadParameter(f"{audit}: no such folder", param_hint="--folder")
    store = ObjectStore(url)
    if follow:
        return run_ship_process(audit, store, data=data, interval_s=interval_s)
    with _progress("copying", as_json=as_json) as advance:
        copied = copy_audit(audit, store, advance)
    _tell(copied, as_json=as_json)
    return 0


@app.command(
    epilog="Example: meterproof audit fetch s3://audit-copy/prod restored/audit   ·   "
    "meterproof verify restored --vkey log.vkey"
)
def fetch(
    url: _Url,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the audit folder goes; made if missing.")],
    as_json: AsJson = False,
) -> int:
    """Bring an audit folder back from its copy: `meterproof verify`, `rebuild`, `prove` and the sink work on it.

    Every segment is compared with its manifest on the way; verify the whole afterwards. A run that was cut off goes on.

    Exit code: 0 it is there, 1 store or folder cannot be used, 2 wrong usage, 78 the copy contradicts itself or DIR.
    """
    from meterproof_sinks.audit_fetch import fetch_audit
    from meterproof_sinks.object_store import ObjectStore

    with _progress("fetching", as_json=as_json) as advance:
        fetched = fetch_audit(ObjectStore(url), folder, advance)
    if as_json:
        written = {
            "files": fetched.files,
            "bytes": fetched.bytes,
            "logs": {log: {"events": events, "covered": fetched.covered[log]} for log, events in fetched.logs.items()},
            "not_there": fetched.not_there,
        }
        typer.echo(orjson.dumps(written, option=orjson.OPT_INDENT_2))
        return 0
    for log, events in fetched.logs.items():
        typer.echo(f"{log}: {events:,} events, {fetched.covered[log]:,} of them covered by a signed checkpoint")
    for name in fetched.not_there:
        typer.echo(f"{name} is not in the copy: it had been given up before", err=True)
    typer.echo(
        f"{fetched.files:,} files, {fetched.bytes:,} bytes. Check them with: meterproof verify {folder} --vkey …"
    )
    return 0


def _tell(copied: "Copied", *, as_json: bool) -> None:
    if as_json:
        logs = {
            origin: {
                "sealed": log.sealed,
                "events": log.events,
                "covered": log.covered,
                "only_here": log.only_here,
            }
            for origin, log in copied.logs.items()
        }
        written = {"objects": copied.objects, "bytes": copied.bytes, "logs": logs}
        typer.echo(orjson.dumps(written, option=orjson.OPT_INDENT_2))
        return
    for origin, log in copied.logs.items():
        if log.sealed:
            typer.echo(f"{origin}: {log.events:,} events in {log.sealed:,} segments, {log.covered:,} events covered")
        else:
            typer.echo(f"{origin}: no segment is sealed yet, so there is nothing to copy")
        if log.only_here:
            typer.echo(f"{origin}: {log.only_here:,} events are not sealed yet, and in this folder only")
    typer.echo(f"{copied.objects:,} objects written and read back, {copied.bytes:,} bytes")


@contextmanager
def _progress(what: str, *, as_json: bool) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    with Progress(
        SpinnerColumn(),
        TextColumn(what),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=as_json or not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda size: progress.advance(task, size)
