"""`meterproof prices`: publish and list price books."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from meterproof.command_options import AsJson, Bootstrap, Data, Prefix
from meterproof.commands.kafka_command import run
from meterproof.deployment import DataFolder
from meterproof_schemas.price_book import load_price_book

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def main(argv: list[str]) -> int:
    """Publish price books, or list those that are published."""
    return run(app, "prices", argv)


@app.callback()
def _prices() -> None:
    """Publish price books, or list those that are published."""


@app.command(epilog="Example: meterproof prices publish prices.json --data data")
def publish(
    file: Annotated[Path, typer.Argument(help="Price book, a JSON file.", exists=True, dir_okay=False, readable=True)],
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Publish one version of the price book. A version never changes; publishing the same content again does nothing.

    With --json: one object with version and published (whether it is new).

    Exit code: 0 the version is published with this content, 1 refused, 2 usage.
    """
    from meterproof.kafka.price_books import publish_price_book

    book = load_price_book(file)
    published = asyncio.run(publish_price_book(DataFolder(data).kafka_settings(bootstrap, prefix), book))
    if as_json:
        print(json.dumps({"version": book.version, "published": published}))
    elif published:
        print(
            f"published version {book.version}: {len(book.meters)} meters, {len(book.prices)} prices in {book.currency}"
        )
    else:
        print(f"version {book.version} is published already, with equal content")


@app.command("list", epilog="Example: meterproof prices list --data data --json")
def list_books(
    data: Data = Path("data"), bootstrap: Bootstrap = None, prefix: Prefix = None, as_json: AsJson = False
) -> None:
    """List the published versions of the price book.

    With --json: one array of the price books, whole.

    Exit code: 0 also when there is none, 1 Kafka or a price book is at fault, 2 usage.
    """
    from meterproof.kafka.price_books import read_price_books

    books = asyncio.run(read_price_books(DataFolder(data).kafka_settings(bootstrap, prefix)))
    if as_json:
        print(json.dumps([book.model_dump(exclude_none=True) for book in books.values()]))
        return
    if not books:
        print("no price book is published; publish one with `meterproof prices publish FILE`")
    for book in books.values():
        print(f"version {book.version}  {book.currency}  {len(book.meters)} meters  {len(book.prices)} prices")
