"""What queries compare usage with, as rows: price books and budgets."""

from collections.abc import Sequence
from typing import Any

import orjson

from meterproof_schemas.budget import Budget
from meterproof_schemas.price_book import PriceBook
from meterproof_sinks.clickhouse import ClickHouse
from meterproof_sinks.followed_rows import price_book_row


def put_price_books(clickhouse: ClickHouse, books: Sequence[PriceBook]) -> None:
    """Note price books in `price_books`, each version once however often it is noted.

    Raises:
        ClickHouseError: the database refused, or is away.
    """
    _insert(clickhouse, "price_books", [price_book_row(book) for book in books])


def put_budgets(clickhouse: ClickHouse, budgets: Sequence[Budget]) -> None:
    """Make `budgets` hold these, and no others.

    Raises:
        ClickHouseError: the database refused, or is away.
    """
    clickhouse.command("TRUNCATE TABLE budgets")
    _insert(
        clickhouse,
        "budgets",
        [
            {
                "name": budget.name,
                "scope": budget.scope,
                "subject": budget.subject,
                "period": budget.window,
                "zone": budget.zone,
                "allowed": str(budget.limit),
                "currency": budget.currency or "",
                "meters": list(budget.meters or ()),
            }
            for budget in budgets
        ],
    )


def _insert(clickhouse: ClickHouse, table: str, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        body = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        clickhouse.insert(table, (), body, "JSONEachRow", len(rows))
