"""`meterproof verify`: re-derive an audit folder and compare it with what was signed."""

import os
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from meterproof.command_line import USAGE, run_app
from meterproof_proofs.key_files import NoVerifierKey, read_verifiers
from meterproof_schemas.errors import InvalidRegistry
from meterproof_sinks.remembered_checkpoints import NoCheckpoint, load_remembered
from meterproof_sinks.verification import bytes_to_check, verify_folder
from meterproof_sinks.verification_inputs import Producers, load_producers
from meterproof_sinks.verification_memory import BadMemory, VerificationMemory
from meterproof_sinks.verification_report import FolderReport, LogReport

_FALSE = 1
_WIDTH = 140
_WORTH_PROCESSES_BYTES = 64 * 1024 * 1024

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: meterproof verify data --vkey data/keys/log.vkey   ·   "
    "meterproof verify audit-copy --vkey log.vkey --since kept/checkpoint --resume-file ~/verified.json --json"
)
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Data folder, audit folder, or one log's folder.")],
    vkey: Annotated[
        Path, typer.Option(help="Verifier keys of the logs: a file, one key per line, or a folder of *.vkey files.")
    ],
    producers: Annotated[
        Path | None, typer.Option(help="Producers' key registry. Default: DIR/keys/registry.json, if there.")
    ] = None,
    since: Annotated[
        list[Path] | None,
        typer.Option(help="A signed checkpoint kept from before, or a folder of them: the log must extend it."),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=0, max=1024, help="Processes, for logs or the sealed segments of one. 0: as many as there are cores."
        ),
    ] = 0,
    resume_file: Annotated[
        Path | None,
        typer.Option(help="Your own file of what was found true: that is compared by digest, not derived again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Re-derive every record, hash and root of an audit folder and check them against signed checkpoints.

    A folder that was rolled back together with its checkpoint is whole in itself: only --since shows it.

    With --resume-file, segments that were followed before and have the same SHA-256 are not followed again. Such a run
    trusts that file: keep it where nobody else writes.

    Segments that were given up after their time, as the folder itself notes, are no fault: it says from where on lines
    are kept (kept_from), and the entries of the others must lead to the signed root.

    Ends with 0 only if everything holds and at least one log has a signed checkpoint; 1 if not; 2 if it cannot begin.
    """
    if not folder.is_dir():
        raise _Unusable(f"{folder}: no such folder; give a deployment's data folder, or a copy of its audit folder")
    try:
        verifiers = read_verifiers(vkey)
        registry = _producers(folder, producers)
        remembered = load_remembered(since or [], verifiers)
        memory = None if resume_file is None else VerificationMemory.load(resume_file)
    except (NoVerifierKey, InvalidRegistry, NoCheckpoint, BadMemory) as error:
        raise _Unusable(str(error)) from error
    except OSError as error:
        raise _Unusable(f"{error.filename}: cannot be read: {error.strerror}") from error
    with Progress(
        TextColumn("verifying"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=as_json or not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("verify", total=bytes_to_check(folder))
        report = verify_folder(
            folder,
            verifiers,
            registry,
            lambda count: progress.advance(task, count),
            remembered=remembered,
            memory=memory,
            jobs=_processes(folder, jobs),
        )
    if memory is not None and resume_file is not None:
        _remember(report, memory, resume_file)
    if as_json:
        typer.echo(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2))
    else:
        _show(report, registry)
    if not report.holds:
        raise typer.Exit(_FALSE)


class _Unusable(Exception):
    """The command cannot begin."""


def _producers(folder: Path, given: Path | None) -> Producers | None:
    path = given
    if path is None:
        path = folder / "keys" / "registry.json"
        if not path.is_file():
            return None
    return load_producers(path)


def _processes(folder: Path, jobs: int) -> int:
    """How many processes: none beside this one where starting them would take longer than they save."""
    return jobs or (1 if bytes_to_check(folder) < _WORTH_PROCESSES_BYTES else os.cpu_count() or 1)


def _remember(report: FolderReport, memory: VerificationMemory, file: Path) -> None:
    """Keep what holds for the next run, and forget what does not."""
    logs = dict(memory.logs)
    for log in report.logs:
        if not log.holds:
            logs.pop(log.origin, None)
        elif log.verified is not None:
            logs[log.origin] = log.verified
    VerificationMemory(logs=logs).save(file)


def _show(report: FolderReport, producers: Producers | None) -> None:
    # Eighty columns are a terminal's matter; a file or a pipe gets lines as long as they need be.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, soft_wrap=False)
    table = Table("log", "events", "covered", "not yet", "signatures", "batch roots", "verdict", box=SIMPLE)
    for column in table.columns[1:4]:
        column.justify = "right"
    for log in report.logs:
        table.add_row(
            _short_name(log),
            f"{log.events:,}",
            f"{log.covered:,}",
            f"{log.not_covered:,}",
            _signatures(log),
            f"{log.batch_roots_verified:,} ok"
            + (f", {log.batch_roots_unchecked:,} unchecked" if log.batch_roots_unchecked else ""),
            _verdict(log),
        )
    console.print(table)
    for log in report.logs:
        if log.checkpoint is None and log.holds:
            console.print(f"{log.origin}: no signed checkpoint yet, so nothing of it is proved", style="yellow")
        if log.torn_files:
            console.print(f"{log.origin}: {log.torn_files} torn tail(s) set aside by the writer, no part of the log")
        if log.kept_from:
            console.print(f"{log.origin}: the lines of positions below {log.kept_from:,} were given up; {_left(log)}")
        if log.corrections:
            unchecked = log.corrections_unchecked
            console.print(
                f"{log.origin}: {log.corrections - unchecked:,} corrections do what is stated"
                + (f"; of {unchecked:,} it could not be derived in full" if unchecked else "")
            )
        if log.resumed:
            console.print(
                f"{log.origin}: {log.resumed:,} events were followed by an earlier run; their files are the same"
            )
        if log.unfinished:
            console.print(f"{log.origin}: the writer is at work; its unfinished last record was left out")
    if report.logs_elsewhere:
        console.print(f"Not in this folder, so not verified: {', '.join(report.logs_elsewhere)}", style="yellow")
    if producers is None:
        console.print("Producers' signatures were not checked: give their registry with --producers.", style="yellow")
    for fault in report.all_faults:
        sys.stderr.write(f"meterproof verify: {fault}\n")
    if report.holds:
        console.print("Everything holds.", style="green")
    elif report.all_faults:
        console.print("It does not hold.", style="red")
    else:
        console.print("Nothing is wrong, but no log has a signed checkpoint: nothing is proved.", style="red")


def _short_name(log: LogReport) -> str:
    """Partition and beginning of the epoch: what tells the logs of one deployment apart."""
    parts = log.origin.split("/")
    return f"{parts[-1]} {parts[-2][:8]}" if len(parts) > 1 else log.folder.name


def _left(log: LogReport) -> str:
    """What is left of lines that were given up."""
    if log.covered < log.kept_from:
        return "no signed root that holds here covers them"
    return "their entries are there and lead to the signed root"


def _signatures(log: LogReport) -> str:
    counts = (
        (log.signatures_verified, "ok"),
        (log.signatures_repudiable, "repudiable"),
        (log.signatures_unchecked, "unchecked"),
    )
    return ", ".join(f"{count:,} {name}" for count, name in counts if count) or "none"


def _verdict(log: LogReport) -> str:
    if not log.holds:
        return "[red]false[/]"
    return "[green]true[/]" if log.checkpoint is not None else "[yellow]no checkpoint[/]"


def main(argv: list[str]) -> int:
    """Re-derive an audit folder and check it against signed checkpoints, offline."""
    try:
        return run_app(app, "meterproof verify", argv, (OSError,))
    except _Unusable as error:
        sys.stderr.write(f"meterproof verify: {error}\n")
        return USAGE
