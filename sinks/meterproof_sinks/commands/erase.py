"""`meterproof erase`: erase an agent's or a customer's events from ClickHouse and the audit folder."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import orjson
import typer

from meterproof.command_line import run_app
from meterproof_sinks.commands.asking import confirm, told_waiting
from meterproof_sinks.commands.options import AsJson, Audit, Data, Url, Wait

app = typer.Typer(add_completion=False)


@app.command(
    epilog='Example: meterproof erase --customer acme --by privacy@example.com --reason "request 17" --data data   ·   '
    "meterproof erase --agent agent-7 --by … --reason … --url https://clickhouse:8443 --yes"
)
def erase(
    requested_by: Annotated[str, typer.Option("--by", help="Who asked; kept for ever.")],
    reason: Annotated[str, typer.Option(help="Why; kept for ever, so name nobody in it.")],
    agent: Annotated[str | None, typer.Option(help="Erase this agent's events.")] = None,
    customer: Annotated[str | None, typer.Option(help="Erase this customer's events.")] = None,
    data: Data = Path("data"),
    audit: Audit = None,
    url: Url = None,
    wait_s: Wait = 600.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Erase the lines in the audit folder and the rows in ClickHouse. It can't be undone; totals shrink by them.

    In place of each line stays its digest, so `meterproof verify` and every proof ever given go on holding. Sinks that
    run are asked to do it, and waited for. Kafka's copy goes with its retention. Who asked, when, why and how many
    stands in DATA/erasures.jsonl and in ClickHouse's `erasures`, with a salted digest of the name instead of the name.

    What a legal hold covers (`meterproof audit hold`) is not erased. Events that come in later aren't either: run it
    again once nobody reports that name any more.

    Exit code: 0 done, 1 a hold forbids it, or it could not be done, or not in time, or ClickHouse had not taken in all
    that the audit folder had (run it again); 2 wrong usage.
    """
    from meterproof.deployment import DataFolder
    from meterproof_sinks.audit_folder import log_ends
    from meterproof_sinks.audit_request import UpkeepRequest
    from meterproof_sinks.audit_upkeep import ask
    from meterproof_sinks.clickhouse_settings import ClickHouseSettings
    from meterproof_sinks.erasure import LEDGER_FILE, new_erasure
    from meterproof_sinks.erasure import erase as run
    from meterproof_sinks.event_owner import OwnerKind
    from meterproof_sinks.held_erasure import refuse_held
    from meterproof_sinks.legal_holds import HOLDS_FILE, LegalHolds
    from meterproof_sinks.rows_to_erase import RowsToErase

    name = agent if agent is not None else customer
    if name is None or (agent is None) == (customer is None):
        raise typer.BadParameter("give one of --agent and --customer")
    if not yes:
        confirm(f"Erase all events of {name!r} for ever?")
    kind: OwnerKind = "agent" if agent is not None else "customer"
    erasure = new_erasure(
        kind,
        name,
        requested_by=requested_by,
        reason=reason,
        now_ms=time.time_ns() // 1_000_000,
        random_bytes=os.urandom,
    )
    settings = ClickHouseSettings() if url is None else ClickHouseSettings(url=url)
    folder = audit or data / "audit"
    holds_file = data / HOLDS_FILE
    with told_waiting() as waiting:

        def erase_lines() -> dict[str, int]:
            request = UpkeepRequest(
                request=erasure.request, holds=tuple(LegalHolds(holds_file).in_force), erase=erasure.owner
            )
            outcomes = ask(folder, request, holds_file, patience_s=wait_s, on_wait=waiting)
            return {log: outcome.erased or 0 for log, outcome in outcomes.items()}

        rows = None
        if settings.url is not None or DataFolder(data).clickhouse.is_dir():
            rows = RowsToErase(settings, data, patience_s=wait_s, on_wait=waiting)
        try:
            if rows is None and not folder.is_dir():
                raise _NothingThere(f"{data} holds neither a ClickHouse nor an audit folder; name one with --data")
            there = folder if folder.is_dir() else None
            refuse_held(erasure, LegalHolds(holds_file).in_force, None if rows is None else rows.clickhouse, there)
            due = {} if there is None else log_ends(there)
            erased = run(
                erasure,
                None if rows is None else lambda: rows.erase(erasure, due),
                None if there is None else erase_lines,
                data / LEDGER_FILE,
            )
            behind = {} if rows is None else rows.behind(due)
        finally:
            if rows is not None:
                rows.close()
    lines = sum(erased.audit.values())
    if as_json:
        done = {"request": erasure.request, "audit": erased.audit, "clickhouse": erased.clickhouse, "days": erased.days}
        typer.echo(orjson.dumps(done | ({"behind": behind} if behind else {}), option=orjson.OPT_INDENT_2))
    else:
        typer.echo(
            f"Request {erasure.request}: {lines:,} lines of the audit folder and {erased.clickhouse:,} rows erased."
        )
    for log, position in behind.items():
        sys.stderr.write(
            f"meterproof erase: {log}: ClickHouse ends at position {position}, the audit folder went to {due[log]}: "
            "what lies between will come in yet. Run it again once the sink has carried it\n"
        )
    return 1 if behind else 0


class _NothingThere(Exception):
    """There is nothing to erase from."""


def main(argv: list[str]) -> int:
    """Erase an agent's or a customer's events; every proof goes on holding."""
    from meterproof_sinks.audit_errors import AuditError
    from meterproof_sinks.clickhouse import ClickHouseError
    from meterproof_sinks.legal_holds import HoldError

    return run_app(app, "meterproof erase", argv, (AuditError, ClickHouseError, HoldError, OSError, _NothingThere))
