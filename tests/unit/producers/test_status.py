"""A status is read whole or not at all."""

import shutil
from pathlib import Path

import pytest

from meterproof.status import StatusFile, read_status


def test_the_newest_status_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "status"
    assert read_status(folder, "worker") is None
    status = StatusFile(folder, "worker")
    for number in range(3):
        status.write({"number": number, "partitions": {0: {"next": number}}})
    assert read_status(folder, "worker") == {"number": 2, "partitions": {"0": {"next": 2}}}
    assert [path.name for path in folder.iterdir()] == ["worker.json"]


def test_a_folder_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "status"
    status = StatusFile(folder, "worker")
    status.write({"number": 1})
    shutil.rmtree(folder.parent)
    status.write({"number": 2})
    assert read_status(folder, "worker") == {"number": 2}


def test_a_status_that_cannot_be_written_is_a_warning_once_and_not_an_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "status").write_text("a file where the folder should be")
    status = StatusFile(tmp_path / "status", "worker")
    status.write({"number": 1})
    status.write({"number": 2})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    (tmp_path / "status").unlink()
    status.write({"number": 3})
    assert read_status(tmp_path / "status", "worker") == {"number": 3}
