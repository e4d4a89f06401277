"""`meterproof statement`: exact, with nobody else's data; changed in any way it does not hold."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from meterproof_proofs.note import Verifier
from meterproof_schemas.commands.statement import main
from meterproof_schemas.correction import correction_line
from meterproof_schemas.errors import ContractError
from meterproof_schemas.event import parse_event
from meterproof_schemas.price_book import encode_price_book
from meterproof_schemas.quantity import plain
from meterproof_schemas.statement import MalformedStatement, Period, Statement, StatementNotTrue
from meterproof_sinks.disk import Disk
from meterproof_sinks.price_book_folder import keep_price_book
from meterproof_sinks.statement_maker import make_statement
from tests.audit_upkeep import erase_lines
from tests.builders import make_event, make_genesis_record, make_limits
from tests.published_log import publish, vkey_of
from tests.rated_log import BOOKS, RatedLog, costs

CUSTOMERS = ("acme", "globex", "it's")
MONTHS = ("2025-12", "2026-01")


def _logs() -> list[RatedLog]:
    logs = [RatedLog(partition=number, partitions=2, seed=number + 5) for number in range(2)]
    for log in logs:
        log.grow(12)
    return logs


LOGS = _logs()
VERIFIERS = [Verifier.parse(vkey_of(log)) for log in LOGS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    for log in LOGS:
        publish(data / "audit", log)
    for version, book in BOOKS.items():
        (data / f"book-{version}.json").write_bytes(
            orjson.dumps(orjson.loads(encode_price_book(book)), option=2) + b"\n"
        )
    (data / "log.vkey").write_text("\n".join(map(vkey_of, LOGS)) + "\n")
    return data


def make(data: Path, customer: str, period: str, *more: str) -> Path:
    out = data / "made.statement"
    books = [part for version in BOOKS for part in ("--price-book", str(data / f"book-{version}.json"))]
    assert main([customer, "--period", period, "--data", str(data), "--out", str(out), *books, *more]) == 0
    return out


@pytest.fixture(scope="module")
def good(data: Path) -> Statement:
    """Acme's for December."""
    return Statement.parse(make(data, "acme", "2025-12").read_bytes())


@pytest.mark.parametrize("period", [*MONTHS, "2025-12-31", "2024-02"])
@pytest.mark.parametrize("customer", [*CUSTOMERS, "nobody"])
def test_the_figures_are_those_of_an_independent_sum(
    customer: str, period: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usage: Counter[str] = Counter()
    money: dict[str, Decimal] = {}
    count = 0
    for log in LOGS:
        lines = [(line, record.header.price_book) for _, record in log.records for line in record.lines]
        for (line, book), cost in zip(lines, costs(log.records), strict=True):
            event = parse_event(line)
            if event.data.customer == customer and event.time.startswith(period):
                count += 1
                for meter, quantity in event.data.usage.items():
                    usage[meter] += Decimal(quantity)  # type: ignore[assignment]
                if book:
                    money[BOOKS[book].currency] = money.get(BOOKS[book].currency, Decimal(0)) + cost
    file = make(data, customer, period)
    capsys.readouterr()
    assert main(["check", str(file), "--vkey", str(data / "log.vkey"), "--json"]) == 0
    said = orjson.loads(capsys.readouterr().out)
    assert (said["customer"], said["period"], said["events"]) == (customer, period, count)
    assert said["usage"] == {meter: plain(Decimal(total)) for meter, total in usage.items()}
    assert said["money"] == {currency: plain(total) for currency, total in money.items()}
    assert len(said["checkpoints"]) == 4
    if period != "2026-01":
        assert (count > 0) == (customer in CUSTOMERS and period.startswith("2025"))


def test_what_was_voided_or_replaced_is_stated_so(tmp_path: Path) -> None:
    log = RatedLog(seed=3, genesis_value=make_genesis_record(limits=make_limits(corrections=True)))
    usages = {"a": {"output_tokens": 3}, "b": {"output_tokens": 5}, "c": {"requests": 7, "bytes": 1}}
    events = {name: make_event(name, subject=log.agent, usage=usage) for name, usage in usages.items()}
    log.batch(list(events.values()))
    instead = {"output_tokens": 11}
    log.batch(
        [
            correction_line(events["a"], correction_id="x", kind="replace", salt="0" * 32, usage=instead),
            correction_line(events["b"], correction_id="y", kind="void", salt="0" * 32),
            correction_line(events["b"], correction_id="z", kind="void", salt="0" * 32),
        ]
    )
    publish(tmp_path / "audit", log)
    books = {version: encode_price_book(book) for version, book in BOOKS.items()}
    made = make_statement(tmp_path / "audit", "acme", Period.parse("2026-01-01"), books)
    checked = Statement.parse(made.format()).verify([Verifier.parse(vkey_of(log))])
    spend = log.accounts.customers["acme"].spend
    assert checked.events == log.accounts.customers["acme"].events == 2
    assert checked.usage == {"bytes": "1", "output_tokens": "11", "requests": "7"}
    assert checked.money == {"USD": plain(spend)}
    assert checked.unpriced == {"bytes": 1}
    (stated,) = made.logs
    (first, second) = stated.records
    lies = replace(second, header_line=second.header_line.replace(b'"already_corrected"', b'"applied"'))
    with pytest.raises(StatementNotTrue, match="corrected before"):
        Statement.of("acme", Period.parse("2026-01-01"), books, [replace(stated, records=(first, lies))])
    silent = replace(second, header_line=re.sub(rb',"corrections":.*\]\]', b"", second.header_line))
    with pytest.raises(StatementNotTrue, match="does not say"):
        Statement.of("acme", Period.parse("2026-01-01"), books, [replace(stated, records=(first, silent))])


@pytest.mark.parametrize("customer", CUSTOMERS)
def test_it_holds_nobody_elses_data(customer: str, data: Path) -> None:
    content = make(data, customer, "2025-12").read_bytes()
    lines = [line for log in LOGS for _, record in log.records for line in record.lines]
    others = [line for line in lines if parse_event(line).data.customer != customer]
    assert len(others) > 100
    for line in others:
        assert line not in content
        assert line[:-1].partition(b'"data"')[2] not in content
    for other in set(CUSTOMERS) - {customer}:
        assert f'"customer":"{other}"'.encode() not in content


def test_it_is_smaller_than_single_proofs(good: Statement) -> None:
    events = sum(len(log.events) for log in good.logs)
    hashes = sum(len(log.hashes) for log in good.logs)
    assert events > 30
    assert hashes < 2 * events


def holds(content: bytes) -> bool:
    try:
        Statement.parse(content).verify(VERIFIERS)
    except ContractError:
        return False
    return True


def test_a_change_of_any_byte_is_found(good: Statement) -> None:
    """Everywhere in its first lines, and in every so many bytes of the rest; cut off and prolonged, too."""
    content = good.format()
    assert holds(content)
    assert Statement.parse(content) == good
    head = content.index(b"\nevent ")
    places = [*range(0, head, 3), *range(head, len(content), len(content) // 300)]
    for at in places:
        assert not holds(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]), at
        assert not holds(content[:at] + content[at + 1 :]), at
    for at in places[::10]:
        assert not holds(content[:at])
    assert not holds(content + b"\n")


def _first(statement: Statement, **changes: object) -> Statement:
    return replace(statement, logs=(replace(statement.logs[0], **changes), *statement.logs[1:]))  # type: ignore[arg-type]


def _with_header(statement: Statement, change: Callable[[dict[str, object]], object]) -> Statement:
    header = orjson.loads(statement.header)
    change(header)
    return replace(statement, header=orjson.dumps(header))


def _raise_price(statement: Statement) -> Statement:
    book = statement.books[0].replace(b'"amount":"10.000000000001"', b'"amount":"10.000000000002"')
    assert book != statement.books[0]
    return replace(statement, books=(book, *statement.books[1:]))


def _move_record(statement: Statement) -> Statement:
    """The book of another record for some events."""
    first, second, *rest = statement.logs[0].records
    return _first(statement, records=(replace(first, header_line=second.header_line), second, *rest))


FORGERIES: dict[str, tuple[Callable[[Statement], Statement], str]] = {
    "an event left out": (lambda s: _first(s, events=s.logs[0].events[1:]), "proof has too few hashes"),
    "an event twice": (lambda s: _first(s, events=(s.logs[0].events[0], *s.logs[0].events)), "listed twice"),
    "two positions swapped": (
        lambda s: _first(
            s,
            events=(
                (s.logs[0].events[0][0], s.logs[0].events[1][1]),
                (s.logs[0].events[1][0], s.logs[0].events[0][1]),
                *s.logs[0].events[2:],
            ),
        ),
        "not in the tree",
    ),
    "a whole log left out": (lambda s: replace(s, logs=s.logs[1:]), "the events give"),
    "logs in another order": (lambda s: replace(s, logs=s.logs[::-1]), "do not ascend"),
    "a record left out": (lambda s: _first(s, records=s.logs[0].records[1:]), "not in the tree"),
    "another record's header": (_move_record, "not in the tree"),
    "the other log's checkpoint": (lambda s: _first(s, checkpoint=s.logs[1].checkpoint), "no signature by"),
    "the second tree's checkpoint for the first": (
        lambda s: _first(s, checkpoint=s.logs[0].records_checkpoint),
        "no signature by a known key",
    ),
    "a higher price": (_raise_price, "is stated as"),
    "a price book left out": (lambda s: replace(s, books=s.books[1:]), "which is not here"),
    "a price book nobody asked for": (
        lambda s: replace(s, books=(*s.books, encode_price_book(BOOKS[2].model_copy(update={"version": 3})))),
        "are given",
    ),
    "another total": (lambda s: _with_header(s, lambda h: h["usage"].update(requests="1")), "usage requests is stated"),  # type: ignore[attr-defined]
    "another sum of money": (lambda s: _with_header(s, lambda h: h["money"].update(USD="1")), "money USD is stated"),  # type: ignore[attr-defined]
    "another number of events": (lambda s: _with_header(s, lambda h: h.update(events=1)), "events is stated as 1"),
    "another customer": (lambda s: _with_header(s, lambda h: h.update(customer="globex")), "is not customer 'globex'"),
    "another period": (lambda s: _with_header(s, lambda h: h.update(period="2026-01")), "in 2026-01"),
    "another end of the period": (lambda s: _with_header(s, lambda h: h.update(until="x")), "until is stated as x"),
    "a word more": (lambda s: _with_header(s, lambda h: h.update(note="paid")), "states more than the events give"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_statement_is_refused_and_the_forgery_named(forgery: str, good: Statement) -> None:
    forge, says = FORGERIES[forgery]
    forged = Statement.parse(forge(good).format())
    with pytest.raises(StatementNotTrue, match=says.replace("(", r"\(")):
        forged.verify(VERIFIERS)


def test_the_checks_own_options(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, vkey = str(make(data, "acme", "2025-12")), str(data / "log.vkey")
    own = [part for version in BOOKS for part in ("--price-book", str(data / f"book-{version}.json"))]
    capsys.readouterr()
    assert main(["check", file, "--vkey", vkey, *own, "--customer", "acme"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("true: ")
    assert "does not show that no event of the customer was left out" in shown
    assert main(["check", file, "--vkey", vkey, *own[:2]]) == 1
    assert "price book 2 is none of those given" in capsys.readouterr().err
    assert main(["check", file, "--vkey", vkey, "--customer", "globex", "--json"]) == 1
    assert orjson.loads(capsys.readouterr().out)["holds"] is False
    assert main(["check", file, "--vkey", vkey_of(LOGS[0])]) == 1
    assert main(["check", "gone", "--vkey", vkey]) == 2
    assert main(["check", file, "--vkey", "gone"]) == 2
    assert main(["check", file, "--vkey", vkey, "--price-book", vkey]) == 2


def test_what_cannot_be_stated_says_why(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--data", str(data)]
    assert main(["acme", "--period", "2025-12", *there]) == 1
    assert "was accepted under price book 1, which is not here" in capsys.readouterr().err
    for period in ("2025", "2025-13", "2025-02-30", "yesterday"):
        assert main(["acme", "--period", period, *there]) == 2
    assert main(["acme", "--period", "2025-12", "--data", "gone"]) == 2
    assert main(["acme", "--period", "2025-12", *there, "--json"]) == 2
    publish(tmp_path / "audit", LOGS[0], records=3)
    assert main(["acme", "--period", "2025-12", "--data", str(tmp_path)]) == 1
    assert "covers" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "audit")
    (tmp_path / "audit").mkdir()
    assert main(["acme", "--period", "2025-12", "--data", str(tmp_path)]) == 1
    assert "holds no log" in capsys.readouterr().err


def test_events_that_were_erased_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = Path(shutil.copytree(data, tmp_path / "data"))
    whole = orjson.loads(Statement.parse(make(mine, "acme", "2025-12").read_bytes()).header)
    assert "missing" not in capsys.readouterr().err
    erased = erase_lines(mine / "audit", lambda line: b'"subject":"' + LOGS[0].names[0].encode() + b'"' in line)
    lines = sum(map(len, erased.values()))
    assert lines > 0
    left = orjson.loads(Statement.parse(make(mine, "acme", "2025-12").read_bytes()).header)
    assert left["events"] < whole["events"]
    assert f"may be missing in this: {lines:,} events that were erased" in capsys.readouterr().err
    make(mine, "acme", "2025-12", "--json")
    assert orjson.loads(capsys.readouterr().out)["erased"] == lines
    make(mine, "acme", "2027-01")
    assert "missing" not in capsys.readouterr().err, "nothing that came in can be of that time"


def test_without_the_package_that_makes_them_it_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("meterproof_schemas.commands.statement._MAKER_GROUP", "nobody.declares.this")
    assert main(["acme", "--period", "2025-12"]) == 2
    assert "install meterproof-sinks" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", b"x\n", b"meterproof/statement@v1\n", b"meterproof/statement@v1\nstatement {}\nlog a\nhash !\n"]
)
def test_what_is_no_statement_is_malformed(content: bytes) -> None:
    with pytest.raises(MalformedStatement, match="line"):
        Statement.parse(content)


def test_a_period_ends_where_the_next_begins() -> None:
    assert Period.parse("2025-12").until_us == Period.parse("2026-01").from_us
    assert Period.parse("2024-02-29").until_us == Period.parse("2024-03").from_us


def test_the_price_books_of_the_audit_folder_are_enough(data: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(data, tmp_path / "data"))
    given = Statement.parse(make(own, "acme", "2025-12").read_bytes())
    for version, book in BOOKS.items():
        keep_price_book(own / "audit", encode_price_book(book), Disk())
        (own / f"book-{version}.json").unlink()
    out = str(own / "kept.statement")
    assert main(["acme", "--period", "2025-12", "--data", str(own), "--out", out]) == 0
    assert main(["check", out, "--vkey", str(own / "log.vkey")]) == 0
    kept = Statement.parse(Path(out).read_bytes())
    assert orjson.loads(kept.header)["money"] == orjson.loads(given.header)["money"]
