"""`meterproof statement CUSTOMER`: all events of a customer in a period, with proofs and what they add up to."""

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from meterproof.command_line import USAGE, run_app
from meterproof.deployment import DataFolder

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: meterproof statement acme --period 2026-11 --data data --out acme-2026-11.statement   ·   "
    "meterproof statement check acme-2026-11.statement --vkey log.vkey"
)
def statement(
    customer: Annotated[str, typer.Argument(help="Who pays: data.customer of the events.")],
    period: Annotated[str, typer.Option(help="A month like 2026-11 or a day like 2026-11-30, UTC, by event time.")],
    data: Annotated[Path, typer.Option(help="Data folder, audit folder, or one log's folder.")] = Path("data"),
    price_book: Annotated[
        list[Path] | None,
        typer.Option(help="Price book file beside those in the audit folder. Default: the data folder's, if there."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where it goes. Default: standard output.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say the figures as one JSON object; needs --out.")] = False,
) -> None:
    """Write a customer's statement: its events with proofs, totals by meter, money, checkpoints and price books.

    `meterproof statement check FILE --vkey KEY` verifies it. It shows that each event listed is in the log, once, and
    that the figures follow from them to the last decimal; it does not show that none is left out. It holds no other
    customer's events; of those it holds hashes only.

    Ends with 0 if it was written, 1 if it cannot be made (an event is not covered by a checkpoint yet, a price book is
    missing), 2 for wrong usage.
    """
    from meterproof_schemas.statement import Period
    from meterproof_sinks.price_book_folder import price_books_for
    from meterproof_sinks.statement_maker import make_statement
    from meterproof_sinks.verification import audit_folder_of
    from meterproof_sinks.whole_file import whole_file

    try:
        wanted = Period.parse(period)
    except ValueError as error:
        raise _Usage(f"--period: {error}") from error
    if as_json and out is None:
        raise _Usage("--json needs --out: standard output can be the statement or what is said of it")
    folder = audit_folder_of(data)
    if not folder.is_dir():
        raise _Usage(f"{folder}: no such folder; give a deployment's data folder, or a copy of its audit folder")
    own = DataFolder(data).price_book
    books = price_books_for(folder, price_book or ([own] if own.is_file() else []))
    erased: list[int] = []
    made = make_statement(folder, customer, wanted, books, erased.append)
    content = made.format()
    if sum(erased):
        sys.stderr.write(
            f"meterproof statement: may be missing in this: {sum(erased):,} events that were erased since; the log has "
            "their digests alone, so nobody can tell whose they were\n"
        )
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    with whole_file(out) as file:
        file.write(content)
    figures = orjson.loads(made.header)
    if as_json:
        said = {"file": str(out), "bytes": len(content), "erased": sum(erased)} | figures
        typer.echo(orjson.dumps(said, option=orjson.OPT_INDENT_2))
    else:
        money = ", ".join(f"{total} {currency}" for currency, total in figures["money"].items()) or "nothing to pay"
        typer.echo(f"{out}: {figures['events']:,} events, {money}, {len(content):,} bytes")


class _Usage(Exception):
    """Wrong usage."""


def main(argv: list[str]) -> int:
    """Make a customer's statement with a proof of every event."""
    from meterproof_schemas.errors import ContractError
    from meterproof_sinks.audit_errors import AuditError
    from meterproof_sinks.proving import CannotProve

    try:
        return run_app(app, "meterproof statement", argv, (CannotProve, AuditError, ContractError, OSError))
    except _Usage as error:
        sys.stderr.write(f"meterproof statement: {error}\n")
        return USAGE
