"""Price books in an audit folder: written once, what their names say, and enough to rate what is there."""

from pathlib import Path

import pytest

from meterproof_schemas.errors import StageStopped
from meterproof_schemas.price_book import encode_price_book
from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.disk import Disk
from meterproof_sinks.price_book_folder import PriceBooksDiffer, keep_price_book, kept_price_books, price_books_for
from tests.rated_log import BOOKS

FIRST, SECOND = (encode_price_book(book) for book in BOOKS.values())
OTHER_FIRST = encode_price_book(BOOKS[1].model_copy(update={"currency": "EUR"}))


def test_a_version_is_kept_once_and_equal_is_success(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    assert kept_price_books(audit) == {}
    assert keep_price_book(audit, SECOND, Disk())
    assert keep_price_book(audit, FIRST, Disk())
    assert not keep_price_book(audit, FIRST, Disk())
    assert kept_price_books(audit) == {1: FIRST, 2: SECOND}
    with pytest.raises(StageStopped, match=r"log_diverged: version 1 .*1\.json"):
        keep_price_book(audit, OTHER_FIRST, Disk())
    assert kept_price_books(audit) == {1: FIRST, 2: SECOND}


def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path: Path) -> None:
    keep_price_book(tmp_path, FIRST, Disk())
    (tmp_path / "prices" / "2.json.new").write_bytes(SECOND[:10])
    assert kept_price_books(tmp_path) == {1: FIRST}
    for name, content in (("3.json", SECOND), ("1.json", b"{}"), ("notes.txt", b"x")):
        file = tmp_path / "prices" / name
        before = file.read_bytes() if file.exists() else None
        file.write_bytes(content)
        with pytest.raises(DamagedAudit, match=name):
            kept_price_books(tmp_path)
        file.unlink() if before is None else file.write_bytes(before)


def test_kept_ones_and_files_are_taken_together_unless_they_contradict(tmp_path: Path) -> None:
    keep_price_book(tmp_path, FIRST, Disk())
    files = {name: tmp_path / name for name in ("first", "second", "other")}
    for file, content in zip(files.values(), (b" " + FIRST, SECOND, OTHER_FIRST), strict=True):
        file.write_bytes(content)
    assert price_books_for(tmp_path, [files["first"], files["second"]]) == {1: FIRST, 2: SECOND}
    with pytest.raises(PriceBooksDiffer, match="version 1"):
        price_books_for(tmp_path, [files["other"]])
