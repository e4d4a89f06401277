"""`meterproof migrate`: bring the tables of a ClickHouse to the version that the sink writes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from meterproof.command_line import run_app
from meterproof.deployment import DataFolder
from meterproof_sinks.commands.options import AsJson, Data, Url

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: METERPROOF_CLICKHOUSE_PASSWORD=… meterproof migrate --url https://clickhouse:8443   ·   "
    "meterproof migrate --data data --check"
)
def migrate(
    data: Data = Path("data"),
    url: Url = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; end with 1 if something is missing.")] = False,
    as_json: AsJson = False,
) -> int:
    """Apply the migrations that a ClickHouse lacks, in order; harmless when repeated.

    Exit code: 0 nothing is missing (any more), 1 something is missing (--check), or it could not be done.
    """
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.migrate import all_migrations, pending
    from meterproof_sinks.migrate import migrate as apply

    settings = ClickHouseSettings() if url is None else ClickHouseSettings(url=url)
    if check and settings.url is None and not DataFolder(data).clickhouse.is_dir():
        found = all_migrations()  # to open the folder would be to make it
    else:
        clickhouse = settings.open(data)
        try:
            found = pending(clickhouse) if check else apply(clickhouse, replicated=settings.replicated)
        finally:
            clickhouse.close()
    names = [f"{migration.number:04}_{migration.name}" for migration in found]
    if as_json:
        print(json.dumps({"missing" if check else "applied": names, "known": len(all_migrations())}))
    elif check:
        print(f"missing: {', '.join(names)}" if names else "nothing is missing")
    else:
        print(f"applied: {', '.join(names)}" if names else "nothing was missing")
    return 1 if check and names else 0


def main(argv: list[str]) -> int:
    """Bring a ClickHouse's tables to the version that the sink writes."""
    from meterproof_sinks.clickhouse import ClickHouseError

    return run_app(app, "meterproof migrate", argv, (ClickHouseError, OSError))
