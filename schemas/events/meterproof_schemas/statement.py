"""A customer's statement: the events of a period with proofs, what they add up to, and all that is needed to check it.

```text
meterproof/statement@v1
statement {"customer":…,"period":"2026-11","from":…,"until":…,"events":…,"usage":{…},"money":{…},
           "unpriced":{…},"price_books":{"1":"<SHA-256>"}}  (one line)
price-book <a price book, verbatim>                     one per version that an event below was accepted under
log <origin>                                            then, for each log, ascending by origin:
event <position> <the event's line, verbatim>           ascending
record <number> <record header, verbatim>               the log records that these events came with, ascending
batch-header <the producer's batch header, verbatim>    of the record above
batch-signatures <its signatures line, verbatim>
hash <base64>                                           multi-proof of the events in the log (`multi_proof`)
records-hash <base64>                                   multi-proof of the records in the log's second tree
checkpoint <base64 of a signed note>                    of the log
records-checkpoint <base64 of a signed note>            of its second tree
```
Every line ends with LF, and the whole has exactly one spelling. `usage` is the exact sum by meter, `money` by currency,
as `price(event, book)` gives it for each event with the book that its record names; `unpriced` counts, by meter, the
events that no price matches. What a correction voided does not count, and what it replaced counts as replaced;
`events` is the number of those that count. `price_books` has the digest of each book's line below, by version.

What a statement that holds shows: each event listed is in the log, counted once, is the customer's and in the period,
and the figures follow from these events and these price books to the last decimal. What it does not show: that no event
of the customer was left out, and that the price books are the ones agreed on (compare them with your own).

It holds no other customer's line. A record header lists the digests of its batch's lines that were not accepted,
whoever's they were: behind an event's 16 random bytes of salt a digest tells nothing.
"""

import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson
from pydantic import ValidationError

from meterproof_proofs.checkpoint import Checkpoint, open_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.event_proof import keys_of_log
from meterproof_proofs.multi_proof import root_of_multi_proof
from meterproof_proofs.note import Verifier
from meterproof_proofs.tree import EMPTY_ROOT, leaf_hash
from meterproof_schemas.effect import Effect
from meterproof_schemas.errors import ContractError, InvalidEvent
from meterproof_schemas.event import Event, entry_of, identity_of
from meterproof_schemas.fast_event import read_event
from meterproof_schemas.instant import format_instant_ms, parse_instant_us
from meterproof_schemas.log_record import RecordHeader
from meterproof_schemas.price_book import PriceBook, parse_price_book
from meterproof_schemas.quantity import EXACT, decimal_of, plain
from meterproof_schemas.rating import price
from meterproof_schemas.records_tree import head_entry, records_origin
from meterproof_schemas.window import WindowKind, window_end_us

_FIRST_LINE: Final = b"meterproof/statement@v1"
_PERIOD: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?", re.ASCII)
_NUMBER: Final = re.compile(rb"0|[1-9][0-9]{0,18}")
_UTC: Final = ZoneInfo("UTC")


class MalformedStatement(ContractError):
    """Bytes that are not a statement; the text names the line."""


class StatementNotTrue(ContractError):
    """A statement that does not hold; the text says what and where."""


@dataclass(frozen=True, slots=True)
class Period:
    """A month (`2026-11`) or a day (`2026-11-30`) in UTC, by event time."""

    text: str
    from_us: int
    until_us: int
    """First instant after it."""

    @classmethod
    def parse(cls, text: str) -> "Period":
        """Read a period.

        Raises:
            ValueError: it is none.
        """
        if not _PERIOD.fullmatch(text):
            raise ValueError(f"{text!r} is neither a month like 2026-11 nor a day like 2026-11-30")
        kind: WindowKind = "month" if len(text) == len("2026-11") else "day"
        start_us = parse_instant_us(f"{text}{'-01' if kind == 'month' else ''}T00:00:00.000Z")
        return cls(text, start_us, window_end_us(start_us, kind, _UTC))


@dataclass(frozen=True, slots=True)
class StatedRecord:
    """A log record without its events."""

    number: int
    """Entry of the log's second tree."""
    header_line: bytes
    carried: tuple[bytes, bytes]
    """The batch's header and signatures lines."""

    @property
    def entry(self) -> bytes:
        """Its entry in the second tree."""
        return head_entry(b"\n".join([self.header_line, *self.carried, b""]))


@dataclass(frozen=True, slots=True)
class StatedLog:
    """What a statement lists of one log. All sequences ascend."""

    origin: str
    events: tuple[tuple[int, bytes], ...]
    """(position, line)."""
    records: tuple[StatedRecord, ...]
    hashes: tuple[bytes, ...]
    records_hashes: tuple[bytes, ...]
    checkpoint: bytes
    """Signed note."""
    records_checkpoint: bytes


@dataclass(frozen=True, slots=True)
class CheckedStatement:
    """What a statement that holds says."""

    customer: str
    period: str
    events: int
    usage: Mapping[str, str]
    money: Mapping[str, str]
    unpriced: Mapping[str, int]
    checkpoints: tuple[Checkpoint, ...]
    """Of each log, then of its second tree."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as it stands in its file; to believe it, use `verify`."""

    header: bytes
    """The first line's JSON."""
    books: tuple[bytes, ...]
    """Price books, verbatim, ascending by version."""
    logs: tuple[StatedLog, ...]

    @classmethod
    def of(cls, customer: str, period: Period, books: Mapping[int, bytes], logs: Sequence[StatedLog]) -> "Statement":
        """The statement over these events; of `books` (version → file) it takes those that are needed.

        Raises:
            StatementNotTrue: an event is not the customer's, not in the period, or without its book.
        """
        parsed = {version: parse_price_book(content) for version, content in books.items()}
        figures, used = _add_up(customer, period, parsed, logs)
        one_line = {version: orjson.dumps(orjson.loads(books[version])) for version in used}
        return cls(_header(customer, period, figures, one_line), tuple(one_line.values()), tuple(logs))

    def format(self) -> bytes:
        """Return the bytes of the file; `parse` reads exactly them back."""
        lines = [_FIRST_LINE, b"statement " + self.header, *(b"price-book " + book for book in self.books)]
        for log in self.logs:
            lines.append(b"log " + log.origin.encode())
            lines += (b"event %d %s" % event for event in log.events)
            for record in log.records:
                lines += [b"record %d %s" % (record.number, record.header_line)]
                lines += [b"batch-header " + record.carried[0], b"batch-signatures " + record.carried[1]]
            lines += (b"hash " + b64encode(one) for one in log.hashes)
            lines += (b"records-hash " + b64encode(one) for one in log.records_hashes)
            lines += [b"checkpoint " + b64encode(log.checkpoint)]
            lines += [b"records-checkpoint " + b64encode(log.records_checkpoint)]
        return b"\n".join([*lines, b""])

    @classmethod
    def parse(cls, content: bytes) -> "Statement":
        """Read a statement strictly: `parse(content).format() == content` for everything it accepts.

        Raises:
            MalformedStatement: says what is wrong, and in which line.
        """
        lines = _Lines(content)
        if lines.take() != _FIRST_LINE:
            raise MalformedStatement(f"line 1: is not {_FIRST_LINE.decode()}")
        header = lines.named(b"statement")
        books = tuple(lines.all_named(b"price-book"))
        logs: list[StatedLog] = []
        while lines.left:
            origin = lines.named(b"log").decode(errors="replace")
            events = tuple(lines.numbered(one) for one in lines.all_named(b"event"))
            records: list[StatedRecord] = []
            for one in lines.all_named(b"record"):
                number, header_line = lines.numbered(one)
                carried = lines.named(b"batch-header"), lines.named(b"batch-signatures")
                records.append(StatedRecord(number, header_line, carried))
            hashes = tuple(lines.decoded(one) for one in lines.all_named(b"hash"))
            records_hashes = tuple(lines.decoded(one) for one in lines.all_named(b"records-hash"))
            notes = lines.decoded(lines.named(b"checkpoint")), lines.decoded(lines.named(b"records-checkpoint"))
            logs.append(StatedLog(origin, events, tuple(records), hashes, records_hashes, *notes))
        statement = cls(header, books, tuple(logs))
        if statement.format() != content:
            raise MalformedStatement("it is not spelled in the one way that a statement is")
        return statement

    def verify(self, verifiers: Iterable[Verifier]) -> CheckedStatement:
        """Return what the statement shows if it holds; raise if not.

        1. The checkpoints are signed by the logs' keys. 2. Every event and every record is in them. 3. Every event came
        with one of the records. 4. Every event is the customer's and in the period. 5. The figures are what the events
        add up to, by the price books that their records name.

        Raises:
            StatementNotTrue: says what does not hold, and where.
        """
        customer, period = self._whose()
        keys = list(verifiers)
        if [log.origin for log in self.logs] != sorted({log.origin for log in self.logs}):
            raise StatementNotTrue("the logs do not ascend by origin")
        checkpoints: list[Checkpoint] = []
        for log in self.logs:
            checkpoints += _check_log(log, keys)  # 1, 2
        books = _books(self.books)
        figures, used = _add_up(customer, period, books, self.logs)  # 3, 4
        if used != list(books):
            raise StatementNotTrue(f"price books {list(books)} are given, and versions {used} are in force")
        header = _header(customer, period, figures, dict(zip(books, self.books, strict=True)))
        if header != self.header:  # 5
            raise StatementNotTrue(_difference(self.header, header))
        return CheckedStatement(
            customer,
            period.text,
            figures["events"],
            figures["usage"],
            figures["money"],
            figures["unpriced"],
            tuple(checkpoints),
        )

    def _whose(self) -> tuple[str, Period]:
        try:
            header = orjson.loads(self.header)
            return str(header["customer"]), Period.parse(str(header["period"]))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise StatementNotTrue(f"line 2: names no customer and period: {error}") from error


def _check_log(log: StatedLog, keys: Sequence[Verifier]) -> tuple[Checkpoint, Checkpoint]:
    """The log's checkpoints, which cover all that is listed of it."""
    events = {position: leaf_hash(entry_of(line)) for position, line in log.events}
    records = {record.number: leaf_hash(record.entry) for record in log.records}
    second = records_origin(log.origin)
    for origin, leaves, listed in (
        (log.origin, events, [position for position, _ in log.events]),
        (second, records, [record.number for record in log.records]),
    ):
        if listed != sorted(leaves):
            raise StatementNotTrue(f"{origin}: the entries do not ascend, or one is listed twice")
    return (
        _check_tree(log.origin, keys, log.checkpoint, events, log.hashes),
        _check_tree(second, keys, log.records_checkpoint, records, log.records_hashes),
    )


def _check_tree(
    origin: str, keys: Sequence[Verifier], note: bytes, leaves: Mapping[int, bytes], hashes: Sequence[bytes]
) -> Checkpoint:
    try:
        checkpoint = open_checkpoint(note, keys_of_log(keys, origin), origin=origin)
        if not checkpoint.size:
            root = EMPTY_ROOT if not hashes and not leaves else b""
        else:
            root = root_of_multi_proof(leaves, checkpoint.size, hashes)
    except ProofError as error:
        raise StatementNotTrue(f"{origin}: {error}") from error
    if root != checkpoint.root:
        raise StatementNotTrue(f"{origin}: the {len(leaves)} entries listed are not in the tree that was signed")
    return checkpoint


def _add_up(
    customer: str, period: Period, books: Mapping[int, PriceBook], logs: Sequence[StatedLog]
) -> tuple[dict[str, Any], list[int]]:
    """The figures, and the versions of the books that they needed, ascending."""
    usage: dict[str, Decimal] = {}
    money: dict[str, Decimal] = {}
    unpriced: Counter[str] = Counter()
    standing: list[tuple[str, int, Event]] = []
    for log in logs:
        standing += _standing(log, customer, period)
    for where, version, event in standing:
        for meter, quantity in event.data.usage.items():
            usage[meter] = EXACT.add(usage.get(meter, Decimal(0)), decimal_of(quantity))
        if not version:
            unpriced.update(event.data.usage.keys())
            continue
        if version not in books:
            raise StatementNotTrue(f"{where}: was accepted under price book {version}, which is not here")
        rated = price(event, books[version])
        money[rated.currency] = EXACT.add(money.get(rated.currency, Decimal(0)), rated.amount)
        unpriced.update(rated.unpriced)
    used = {version for _, version, _ in standing if version}
    figures = {
        "events": len(standing),
        "usage": {meter: plain(total) for meter, total in sorted(usage.items())},
        "money": {currency: plain(total) for currency, total in sorted(money.items())},
        "unpriced": dict(sorted(unpriced.items())),
    }
    return figures, sorted(used)


def _standing(log: StatedLog, customer: str, period: Period) -> list[tuple[str, int, Event]]:
    """The events of a log that count: but for those that a correction voided, and with what replaced the others.

    The log's records say which corrections were applied; that each of them is of an event listed here, which it carries
    as it stands and which no other one corrects, is checked.
    """
    standing: dict[bytes, tuple[str, int, Event]] = {}
    seen: dict[bytes, bytes] = {}
    for where, header, position, event, line in _events(log):
        identity = identity_of(event.source, event.id)
        if identity in seen:
            raise StatementNotTrue(f"{where}: source {event.source!r} has the id {event.id!r} twice")
        seen[identity] = line
        if event.data.customer != customer or not period.from_us <= event.time_us < period.until_us:
            raise StatementNotTrue(f"{where}: the event is not customer {customer!r}'s in {period.text}")
        corrects, effect = event.data.corrects, header.effects.get(position)
        if (corrects is None) != (effect is None):
            raise StatementNotTrue(f"{where}: its record does not say what the correction does")
        if corrects is None:
            standing[identity] = where, header.price_book, event
        elif effect is Effect.APPLIED:
            target = identity_of(event.source, corrects.id)
            if standing.pop(target, None) is None or seen[target] != (corrects.line or "").encode():
                raise StatementNotTrue(f"{where}: the event that it corrects is not listed, or was corrected before")
            if corrects.kind == "replace":
                standing[identity] = where, header.price_book, event
    return list(standing.values())


def _events(log: StatedLog) -> Iterable[tuple[str, RecordHeader, int, Event, bytes]]:
    """Each event of a log: where it is, its record, position, the event, its line. Every record has one or more."""
    events = iter(log.events)
    listed = next(events, None)
    for record in log.records:
        where = f"{log.origin}, record {record.number}"
        try:
            header = RecordHeader.model_validate_json(record.header_line)
        except ValidationError as error:
            raise StatementNotTrue(f"{where}: is not a record's header") from error
        if listed is None or not header.first <= listed[0] < header.size:
            raise StatementNotTrue(
                f"{where}: holds positions {header.first} to {header.size - 1}, none of which is next"
            )
        while listed is not None and listed[0] < header.size:
            position, line = listed
            try:
                yield f"{log.origin}, position {position}", header, position, read_event(line), line
            except InvalidEvent as error:
                raise StatementNotTrue(f"{log.origin}, position {position}: {error}") from error
            listed = next(events, None)
    if listed is not None:
        raise StatementNotTrue(f"{log.origin}, position {listed[0]}: came with none of the records listed")


def _books(contents: Sequence[bytes]) -> dict[int, PriceBook]:
    books: dict[int, PriceBook] = {}
    for content in contents:
        book = parse_price_book(content)
        if any(version >= book.version for version in books):
            raise StatementNotTrue(f"price book {book.version} does not stand in order")
        if orjson.dumps(orjson.loads(content)) != content:
            raise StatementNotTrue(f"price book {book.version} is not spelled compactly")
        books[book.version] = book
    return books


def _header(customer: str, period: Period, figures: Mapping[str, Any], books: Mapping[int, bytes]) -> bytes:
    times = (format_instant_ms(time_us // 1000) for time_us in (period.from_us, period.until_us))
    whose = dict(zip(("customer", "period", "from", "until"), (customer, period.text, *times), strict=True))
    digests = {str(version): sha256(content).hexdigest() for version, content in books.items()}
    return orjson.dumps(whose | dict(figures) | {"price_books": digests})


def _difference(stated: bytes, computed: bytes) -> str:
    """Which figure differs."""
    said, is_so = orjson.loads(stated), orjson.loads(computed)
    for name, value in is_so.items():
        there = said.get(name)
        if there != value:
            if isinstance(value, dict) and isinstance(there, dict):
                part = next(one for one in (*value, *there) if value.get(one) != there.get(one))
                return f"{name} {part} is stated as {there.get(part)}, but the events give {value.get(part)}"
            return f"{name} is stated as {there}, but the events give {value}"
    return "line 2 states more than the events give, or is not spelled compactly"


class _Lines:
    """The lines of a file, taken in order; lives for one parse."""

    def __init__(self, content: bytes) -> None:
        self._lines = content.split(b"\n")
        if self._lines.pop() != b"":
            raise MalformedStatement("the last line does not end with LF")
        self._at = 0

    @property
    def left(self) -> bool:
        return self._at < len(self._lines)

    def take(self) -> bytes:
        if not self.left:
            raise MalformedStatement(f"line {self._at + 1}: the file ends too early")
        self._at += 1
        return self._lines[self._at - 1]

    def named(self, name: bytes) -> bytes:
        """The content of the next line, which must have this name."""
        line = self.take()
        if not line.startswith(name + b" "):
            raise MalformedStatement(f"line {self._at}: must begin with {name.decode()!r} and a space")
        return line[len(name) + 1 :]

    def all_named(self, name: bytes) -> Iterable[bytes]:
        """The contents of all next lines of this name."""
        while self.left and self._lines[self._at].startswith(name + b" "):
            yield self.named(name)

    def numbered(self, content: bytes) -> tuple[int, bytes]:
        number, _, rest = content.partition(b" ")
        if not _NUMBER.fullmatch(number):
            raise MalformedStatement(f"line {self._at}: must go on with a decimal number without leading zeros")
        return int(number), rest

    def decoded(self, content: bytes) -> bytes:
        try:
            return b64decode(content, validate=True)
        except ValueError as error:
            raise MalformedStatement(f"line {self._at}: not standard base64") from error
