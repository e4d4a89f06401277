"""`meterproof retain`: give up single events and minutes in ClickHouse after their time."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer

from meterproof.command_line import run_app
from meterproof_sinks.commands.options import AsJson, Data, Url

_DAYS_MAX = 100_000
"""No calendar goes back much further."""

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: meterproof retain --raw-days 400 --minute-days 30 --data data   ·   "
    "meterproof retain --raw-days 400 --url https://clickhouse:8443"
)
def retain(
    raw_days: Annotated[
        int | None,
        typer.Option(
            help="Keep single events so many days, by whole months. Default: for ever.", min=62, max=_DAYS_MAX
        ),
    ] = None,
    minute_days: Annotated[
        int | None,
        typer.Option(help="Keep the roll-up by minute so many days. Default: for ever.", min=1, max=_DAYS_MAX),
    ] = None,
    data: Data = Path("data"),
    no_holds: Annotated[
        bool, typer.Option("--no-holds", help="There is no data folder to look for legal holds in, and no hold.")
    ] = False,
    complete: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LOG",
            help="Nothing as old as that comes of this log any more: it is dead, or idle and not signed. Repeatable.",
        ),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> int:
    """Drop months of single events, and days of minutes, that are older; hours and days stay for ever.

    A month goes only when its events and spend are in the roll-ups, day by day. Logs stay dense, `reconcile` goes on
    comparing, and the audit folder keeps every line. Run it once a day; a folder's own sink must be stopped meanwhile.
    Months, and days of minutes, with a row under a legal hold (`meterproof audit hold`, in DATA) are kept whole, and so
    are months of which a log can bring more: one that lags behind, or whose horizon is not over yet. Each is named.

    Exit code: 0 all that is old enough is gone (or nothing is), 1 a hold or a log kept something, or it could not be
    done; 2 wrong usage.
    """
    from rich.console import Console

    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.legal_holds import HOLDS_FILE, LegalHolds
    from meterproof_sinks.migrate import migrate
    from meterproof_sinks.retention import retire

    if raw_days is None and minute_days is None:
        raise typer.BadParameter("give --raw-days, --minute-days, or both")
    if not no_holds and not data.is_dir():
        raise typer.BadParameter(
            f"{data}: no such folder, so nobody knows of legal holds; name the deployment's, or say --no-holds",
            param_hint="--data",
        )
    if no_holds and (data / HOLDS_FILE).exists():
        raise typer.BadParameter(f"{data / HOLDS_FILE} is there", param_hint="--no-holds")
    holds = LegalHolds(data / HOLDS_FILE).in_force
    settings = ClickHouseSettings() if url is None else ClickHouseSettings(url=url)
    clickhouse = settings.open(data)
    try:
        migrate(clickhouse, replicated=settings.replicated)
        with Console(stderr=True).status("looking") as status:
            retired = retire(
                clickhouse,
                datetime.now(UTC).date(),
                raw_days=raw_days,
                minute_days=minute_days,
                holds=holds,
                complete=complete or (),
                on_step=status.update,
            )
    finally:
        clickhouse.close()
    if as_json:
        done = {
            "months": retired.months,
            "events": retired.events,
            "minute_days": retired.minute_days,
            "waiting": retired.waiting,
            "held": retired.held,
        }
        typer.echo(orjson.dumps(done, option=orjson.OPT_INDENT_2))
    else:
        days = len(retired.minute_days)
        typer.echo(f"{retired.events:,} events of {len(retired.months)} months, and minutes of {days} days, given up.")
        for month, logs in retired.waiting.items():
            for why in logs:
                typer.echo(f"{month} is old enough, but more of it can come: {why}", err=True)
        if retired.waiting:
            typer.echo("Of a log of which nothing that old comes any more, say so: --complete LOG", err=True)
        for what, hold in retired.held.items():
            typer.echo(f"{what} is old enough, but: {hold}", err=True)
    return 1 if retired.held or retired.waiting else 0


def main(argv: list[str]) -> int:
    """Give up single events and minutes in ClickHouse after their time; summaries and proofs stay."""
    from meterproof_sinks.clickhouse import ClickHouseError
    from meterproof_sinks.legal_holds import HoldError

    return run_app(app, "meterproof retain", argv, (ClickHouseError, HoldError, OSError))
