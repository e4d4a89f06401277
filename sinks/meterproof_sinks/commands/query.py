"""`meterproof query`: ask the ClickHouse of a deployment."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from meterproof.command_line import run_app
from meterproof_sinks.commands.options import Data, Url

_WIDTH_PIPED = 200
_NUMBERS = ("Int", "UInt", "Decimal", "Float")

app = typer.Typer(add_completion=False)


class _Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@app.command(
    epilog='Example: meterproof query "SELECT customer, sum(cost) FROM usage GROUP BY customer" --data data   ·   '
    "meterproof query --file spend_by_agent.sql --format csv"
)
def query(
    sql: Annotated[str | None, typer.Argument(metavar="SQL", help="One query; - reads it from standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="Read the query from this file.", dir_okay=False)] = None,
    data: Data = Path("data"),
    url: Url = None,
    form: Annotated[
        _Format, typer.Option("--format", help="table for people, json one object per line, csv with a header.")
    ] = _Format.TABLE,
) -> int:
    """Ask one question in SQL and print the answer; nothing can be changed by it.

    Read the views: `usage` (each accepted event, exactly once), `usage_by_minute`, `usage_by_hour`, `usage_by_day`,
    `records` (what became of each batch), `density`, `up_to` and `complete_up_to` (how far all is in).
    A running sink answers for its folder; where none runs, the folder is opened for the time of the query.
    Decimals are printed exactly; in json they are strings.

    Exit code: 0 answered, 1 refused or not reachable, 2 wrong usage.
    """
    if (sql is None) == (file is None):
        raise typer.BadParameter("give the query, or --file", param_hint="SQL")
    text = sql if file is None else None
    if text is None or text == "-":
        try:
            text = (sys.stdin.buffer.read() if file is None else file.read_bytes()).decode()
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"no text in UTF-8: {error.reason}", param_hint=str(file or "-")) from None
    formats = {_Format.TABLE: "JSONCompactStrings", _Format.JSON: "JSONEachRow", _Format.CSV: "CSVWithNames"}
    answer, format_name = _ask(text, formats[form], data, url)
    if format_name == formats[_Format.TABLE]:
        _show(orjson.loads(answer))
    else:
        sys.stdout.buffer.write(answer)
        sys.stdout.flush()
    return 0


def _ask(sql: str, format_name: str, data: Path, url: str | None) -> tuple[bytes, str]:
    """The answer, and its format: that of the query's own FORMAT clause, if it has one."""
    from meterproof_sinks.clickhouse_access import open_reader
    from meterproof_sinks.query_front import one_read

    # The same rule everywhere, so that a query that is answered here is answered there.
    sql, format_name = one_read(sql, format_name)
    clickhouse = open_reader(data, url)
    try:
        return clickhouse.raw(sql, format_name), format_name
    finally:
        clickhouse.close()


def _show(answer: dict[str, Any]) -> None:
    """Print an answer in `JSONCompactStrings` as a table: every value as the engine spells it, nothing rounded."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False)
    for column in answer["meta"]:
        number = column["type"].removeprefix("Nullable(").startswith(_NUMBERS)
        table.add_column(Text(column["name"]), justify="right" if number else "left", overflow="fold")
    for row in answer["data"]:
        table.add_row(*(Text(_visible(value)) for value in row))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_PIPED)
    console.print(table)


def _visible(value: str) -> str:
    """A value without characters that would command the terminal: labels come from producers."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in value)


def main(argv: list[str]) -> int:
    """Ask the ClickHouse of a deployment in SQL."""
    from meterproof_sinks.clickhouse import ClickHouseError

    return run_app(app, "meterproof query", argv, (ClickHouseError, OSError))
