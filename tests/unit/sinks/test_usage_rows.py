"""A log record's row is the same whichever way its lines are priced, whole and line by line."""

from collections.abc import Sequence

import pytest

from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.plain_lines import PRICES_NATIVELY, PricesOf, price_plain_lines
from meterproof_schemas.price_book import PriceBook
from meterproof_sinks import usage_rows
from meterproof_sinks.usage_rows import RecordLines, event_rows, sent_of
from tests.builders import make_event
from tests.rated_log import BOOKS, RatedLog


def _rows(log: RatedLog, present: frozenset[int] = frozenset()) -> list[RecordLines]:
    records: Sequence[LogRecord] = [record for _, record in log.records]
    rows, unfit = event_rows(log.origin, records, [sent_of(record) for record in records], BOOKS.get, present)
    assert not unfit
    return rows


def _spelled(rows: list[RecordLines]) -> list[bytes]:
    return [b"".join(row.pieces) for row in rows]


@pytest.mark.skipif(not PRICES_NATIVELY, reason="built without a C compiler that knows 128 bits")
def test_rows_are_the_same_however_their_lines_were_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    log = RatedLog(seed=7)
    plain = [make_event(f"p{number}", subject=log.names[0], usage={"requests": number}) for number in range(300)]
    log.batch(plain)
    log.grow(6)
    log.price_book = 1
    log.batch([make_event("q1", subject=log.names[1], usage={"requests": 2})])
    natively = {True: 0, False: 0}

    def counted(value: bytes, begin: int, count: int, prices_of: PricesOf) -> tuple[bytes, bytes] | None:
        found = price_plain_lines(value, begin, count, prices_of)
        natively[found is not None] += 1
        return found

    monkeypatch.setattr(usage_rows, "price_plain_lines", counted)
    rows = _rows(log)
    assert natively[True] >= 2
    assert natively[False] >= 2
    monkeypatch.setattr(usage_rows, "price_plain_lines", lambda *_: None)
    in_python = _rows(log)
    assert _spelled(rows) == _spelled(in_python)
    assert list(map(len, rows)) == list(map(len, in_python))
    one_by_one = [row for record in rows for row in record.apart()]
    assert _spelled(one_by_one) == _spelled([row for record in in_python for row in record.apart()])
    assert [bytes(row.lines) for row in one_by_one] == [line for _, record in log.records for line in record.lines]


def test_what_is_present_is_left_out() -> None:
    log = RatedLog(seed=8)
    log.batch([make_event(f"p{number}", subject=log.names[0]) for number in range(10)])
    present = frozenset({0, 4, 9})
    (row,) = _rows(log, present)
    assert list(row.positions) == [1, 2, 3, 5, 6, 7, 8]
    lines = log.records[-1][1].lines
    assert bytes(row.lines).split(b"\n") == [line for position, line in enumerate(lines) if position not in present]
    assert _rows(log, frozenset(range(10))) == []


def test_an_event_that_costs_more_than_a_row_holds_stands_alone() -> None:
    dear = 10**18 - 1
    log = RatedLog(seed=9)
    usages = [{"output_tokens": quantity} for quantity in (1, f"{dear}", 2)]
    log.batch([make_event(f"p{number}", subject=log.names[0], usage=usage) for number, usage in enumerate(usages)])
    book: PriceBook = BOOKS[1].model_copy(
        update={"prices": (BOOKS[1].prices[1].model_copy(update={"amount": "9" * 18}),)}
    )
    records = [record for _, record in log.records]
    rows, unfit = event_rows(log.origin, records, [sent_of(record) for record in records], lambda _: book, frozenset())
    assert [list(row.positions) for row in rows] == [[0, 2]]
    assert [(one.position, one.row) for one in unfit] == [(1, records[-1].lines[1])]
