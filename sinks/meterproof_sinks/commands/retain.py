"""`meterproof retain`: give up single events and minutes in ClickHouse after their time."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import orjson
import typer

from meterproof.command_line import run_app
from meterproof_sinks.commands.options import AsJson, Data, Url

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: meterproof retain --raw-days 400 --minute-days 30 --data data   ·   "
    "meterproof retain --raw-days 400 --url https://clickhouse:8443"
)
def retain(
    raw_days: Annotated[
        int | None, typer.Option(help="Keep single events so many days, by whole months. Default: for ever.", min=62)
    ] = None,
    minute_days: Annotated[
        int | None, typer.Option(help="Keep the roll-up by minute so many days. Default: for ever.", min=1)
    ] = None,
    data: Data = Path("data"),
    url: Url = None,
    as_json: AsJson = False,
) -> int:
    """Drop months of single events, and days of minutes, that are older; hours and days stay for ever.

    A month goes only when its events and spend are in the roll-ups, day by day. Logs stay dense, `reconcile` goes on
    comparing, and the audit folder keeps every line. Run it once a day; a folder's own sink must be stopped meanwhile.

    Exit code: 0 done, 1 it could not be done, 2 wrong usage.
    """
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.migrate import migrate
    from meterproof_sinks.retention import retire

    if raw_days is None and minute_days is None:
        raise typer.BadParameter("give --raw-days, --minute-days, or both")
    settings = ClickHouseSettings() if url is None else ClickHouseSettings(url=url)
    clickhouse = settings.open(data)
    try:
        migrate(clickhouse, replicated=settings.replicated)
        retired = retire(clickhouse, datetime.now(UTC).date(), raw_days=raw_days, minute_days=minute_days)
    finally:
        clickhouse.close()
    if as_json:
        done = {"months": retired.months, "events": retired.events, "minute_days": retired.minute_days}
        typer.echo(orjson.dumps(done, option=orjson.OPT_INDENT_2))
    else:
        days = len(retired.minute_days)
        typer.echo(f"{retired.events:,} events of {len(retired.months)} months, and minutes of {days} days, given up.")
    return 0


def main(argv: list[str]) -> int:
    """Give up single events and minutes in ClickHouse after their time; summaries and proofs stay."""
    from meterproof_sinks.clickhouse import ClickHouseError

    return run_app(app, "meterproof retain", argv, (ClickHouseError, OSError))
