"""`meterproof audit retain|hold`: give up old segments of the audit folder, and what must be kept whatever happens."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from meterproof_sinks.commands.asking import confirm, told_waiting
from meterproof_sinks.commands.options import AsJson, Audit, Data, Wait

if TYPE_CHECKING:
    from meterproof_sinks.legal_holds import LegalHolds

app = typer.Typer()
hold_app = typer.Typer(no_args_is_help=True, help="Legal holds: what neither retention nor erasure may remove.")
app.add_typer(hold_app, name="hold")

_By = Annotated[str, typer.Option("--by", help="Who wants it; kept for ever.")]
_Reason = Annotated[str, typer.Option(help="Why; kept for ever.")]


@app.command(
    epilog='Example: meterproof audit retain --before 2025-01-01 --by ops@example.com --reason "policy 7" --dry-run'
    '   ·   meterproof audit retain --before 2025-01-01 --by ops@example.com --reason "policy 7" --yes --json'
)
def retain(
    before: Annotated[str, typer.Option(help="UTC: 2025-01-01, or 2025-01-01T12:00. What came in before it goes.")],
    by: _By,
    reason: _Reason,
    data: Data = Path("data"),
    audit: Audit = None,
    wait_s: Wait = 600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Give up the oldest sealed segments: the lines go for ever, their manifests and all tiles stay.

    The folder goes on being verified: the entries of what went are in the published tiles, and lead to the signed root.
    An audit sink that runs is asked to do it, and waited for. Segments under a legal hold, and all behind them, are
    kept; so are the newest sealed one, and what no signed checkpoint covers. given-up.jsonl keeps who, when and why.

    Exit code: 0 all that is old enough is gone (or nothing is), 1 something had to be kept, or it could not be done, or
    not in time (it stays asked); 2 wrong usage.
    """
    from meterproof_sinks.audit_folder import log_folders, read_log_name
    from meterproof_sinks.audit_request import UpkeepRequest
    from meterproof_sinks.audit_retention import RetainedLog, RetentionRequest, give_up
    from meterproof_sinks.audit_upkeep import ask
    from meterproof_sinks.legal_holds import HOLDS_FILE, LegalHolds

    folder = audit or data / "audit"
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder}: no such folder", param_hint="--audit")
    before_ms = _time_ms(before)
    if not (yes or dry_run):
        confirm(f"Give up for ever what came into {folder} before {before}?")
    now_ms = time.time_ns() // 1_000_000
    holds_file = data / HOLDS_FILE
    holds = LegalHolds(holds_file).in_force
    wanted = RetentionRequest(before_ms, by, reason, now_ms)
    if dry_run:
        done = {read_log_name(log).origin: give_up(log, wanted, holds, dry_run=True) for log in log_folders(folder)}
    else:
        request = UpkeepRequest(request=os.urandom(8).hex(), holds=tuple(holds), retain=wanted)
        with told_waiting() as waiting:
            outcomes = ask(folder, request, holds_file, patience_s=wait_s, on_wait=waiting)
        done = {log: outcome.retained or RetainedLog(0) for log, outcome in outcomes.items()}
    if as_json:
        logs = {
            log: {
                "segments": one.segments,
                "events": one.events,
                "bytes": one.bytes,
                "kept_from": one.kept_from,
                "stopped_by": one.stopped_by,
            }
            for log, one in done.items()
        }
        typer.echo(orjson.dumps({"dry_run": dry_run, "logs": logs}, option=orjson.OPT_INDENT_2))
    else:
        for log, one in done.items():
            gone = "would be given up" if dry_run else "given up"
            typer.echo(
                f"{log}: {one.events:,} events in {one.segments:,} segments ({one.bytes:,} bytes) {gone}; "
                f"kept from position {one.kept_from:,} on"
            )
            if one.stopped_by is not None:
                typer.echo(f"{log}: more is old enough, but: {one.stopped_by}", err=True)
    return 1 if any(one.stopped_by is not None for one in done.values()) else 0


@hold_app.callback()
def _hold() -> None:
    """Legal holds: what neither retention nor erasure may remove."""


@hold_app.command(
    epilog='Example: meterproof audit hold add --customer acme --by legal@example.com --reason "case 12"   ·   '
    'meterproof audit hold add --all --by legal@example.com --reason "audit 2026"'
)
def add(
    by: _By,
    reason: _Reason,
    customer: Annotated[str | None, typer.Option(help="Hold the events of this customer.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Hold everything.")] = False,
    data: Data = Path("data"),
    as_json: AsJson = False,
) -> int:
    """Set a hold. From then on `audit retain` and `erase` refuse what it covers.

    Exit code: 0 set, and on the device; 1 it could not be written; 2 wrong usage.
    """
    if (customer is None) == (not everything):
        raise typer.BadParameter("give one of --customer and --all")
    one = _holds(data).set(os.urandom(4).hex(), customer, by=by, reason=reason, now_ms=time.time_ns() // 1_000_000)
    typer.echo(orjson.dumps(one.as_json(), option=orjson.OPT_INDENT_2) if as_json else f"Set: {one}")
    return 0


@hold_app.command(
    epilog='Example: meterproof audit hold remove 0a1b2c3d --by legal@example.com --reason "case 12 is closed"'
)
def remove(
    hold: Annotated[str, typer.Argument(metavar="ID", help="Of the hold, as `list` says.")],
    by: _By,
    reason: _Reason,
    data: Data = Path("data"),
    as_json: AsJson = False,
) -> int:
    """Lift a hold. Its record stays.

    Exit code: 0 lifted, 1 there is no such hold in force, 2 wrong usage.
    """
    _holds(data).lift(hold, by=by, reason=reason, now_ms=time.time_ns() // 1_000_000)
    typer.echo(orjson.dumps({"lifted": hold}) if as_json else f"Lifted: {hold}")
    return 0


@hold_app.command("list", epilog="Example: meterproof audit hold list --data data --json")
def list_holds(data: Data = Path("data"), as_json: AsJson = False) -> int:
    """Show the holds in force. Exit code: 0, also if there are none."""
    holds = _holds(data).in_force
    if as_json:
        typer.echo(orjson.dumps([one.as_json() for one in holds], option=orjson.OPT_INDENT_2))
    for one in () if as_json else holds:
        typer.echo(str(one))
    return 0


def _time_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time like 2025-01-01", param_hint="--before") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return int(moment.timestamp()) * 1000


def _holds(data: Path) -> "LegalHolds":
    """The holds of a data folder that is there: one that was set in a mistyped folder would hold nothing."""
    from meterproof_sinks.legal_holds import HOLDS_FILE, LegalHolds

    if not data.is_dir():
        raise typer.BadParameter(f"{data}: no such folder", param_hint="--data")
    return LegalHolds(data / HOLDS_FILE)
