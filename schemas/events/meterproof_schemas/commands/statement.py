"""`meterproof statement`: check a customer's statement; make one, where a package that can is installed."""

import argparse
import sys
from importlib.metadata import entry_points
from pathlib import Path

import orjson

from meterproof_proofs.commands.command_line import FALSE, TRUE, UNUSABLE, add_vkey, cannot_begin, given_verifiers
from meterproof_proofs.key_files import NoVerifierKey
from meterproof_schemas.errors import ContractError, InvalidRegistry
from meterproof_schemas.price_book import load_price_book, parse_price_book
from meterproof_schemas.statement import CheckedStatement, Statement

_MAKER_GROUP = "meterproof.statement"
"""Entry-point group of the one package that can make statements: it has the audit folder, the contract has not."""
_NAME = "meterproof statement"
_NOT_SHOWN = (
    "It does not show that no event of the customer was left out, nor that the price books are the ones agreed on."
)


def main(argv: list[str]) -> int:
    """Make a customer's statement with a proof of every event, or check one."""
    if argv[:1] == ["check"] and "--period" not in argv:
        return check(argv[1:])
    makers = list(entry_points(group=_MAKER_GROUP, name="make"))
    if len(makers) != 1:
        sys.stderr.write(f"{_NAME}: to make one, install meterproof-sinks; here only `check` is possible\n")
        return UNUSABLE
    made: int = makers[0].load()(argv)
    return made


def check(argv: list[str]) -> int:
    """Check a statement, offline."""
    arguments = _parser().parse_args(argv)
    try:
        content = sys.stdin.buffer.read() if arguments.file == "-" else Path(arguments.file).read_bytes()
        verifiers = given_verifiers(arguments)
        own_books = [orjson.dumps(orjson.loads(_book(Path(file)))) for file in arguments.price_book]
    except (OSError, NoVerifierKey, InvalidRegistry) as error:
        return cannot_begin(_NAME, error)
    try:
        statement = Statement.parse(content)
        checked = statement.verify(verifiers)
        for book in statement.books if own_books else ():
            if book not in own_books:
                return _refuse(arguments, f"price book {parse_price_book(book).version} is none of those given")
        if arguments.customer not in {None, checked.customer}:
            return _refuse(arguments, f"it is customer {checked.customer!r}'s")
    except ContractError as error:
        return _refuse(arguments, str(error))
    if arguments.json:
        sys.stdout.write(orjson.dumps(_as_json(checked), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.write(_as_text(checked))
    return TRUE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meterproof statement check",
        description="Check a customer's statement: every event is in the log as the signed checkpoints say, and the "
        "totals and the money follow from these events and the price books, to the last decimal. "
        f"{_NOT_SHOWN} Exit code: 0 it holds, 1 it does not, 2 it cannot be checked.",
        epilog="Example: meterproof statement check acme-2026-11.statement --vkey log.vkey",
    )
    parser.add_argument("file", metavar="FILE", help="The statement; - for standard input.")
    add_vkey(parser)
    parser.add_argument(
        "--price-book", action="append", default=[], metavar="FILE", help="A price book agreed on. Repeatable."
    )
    parser.add_argument("--customer", help="Whose statement it must be.")
    parser.add_argument("--json", action="store_true", help="One JSON object, for programs.")
    return parser


def _book(file: Path) -> bytes:
    load_price_book(file)
    return file.read_bytes()


def _refuse(arguments: argparse.Namespace, fault: str) -> int:
    if arguments.json:
        sys.stdout.write(orjson.dumps({"holds": False, "fault": fault}).decode() + "\n")
    sys.stderr.write(f"{_NAME}: {arguments.file}: {fault}\n")
    return FALSE


def _as_json(checked: CheckedStatement) -> dict[str, object]:
    return {
        "holds": True,
        "customer": checked.customer,
        "period": checked.period,
        "events": checked.events,
        "usage": dict(checked.usage),
        "money": dict(checked.money),
        "unpriced": dict(checked.unpriced),
        "checkpoints": [{"log": one.origin, "size": one.size, "root": one.root.hex()} for one in checked.checkpoints],
        "not_shown": _NOT_SHOWN,
    }


def _as_text(checked: CheckedStatement) -> str:
    lines = [f"true: {checked.events:,} events of {ascii(checked.customer)[1:-1]} in {checked.period}, all in the log"]
    lines += [f"  {meter}: {total}" for meter, total in checked.usage.items()]
    lines += [f"  to pay: {total} {currency}" for currency, total in checked.money.items()]
    lines += [f"  without a price: {meter}, in {count:,} events" for meter, count in checked.unpriced.items()]
    return "\n".join([*lines, _NOT_SHOWN, ""])
