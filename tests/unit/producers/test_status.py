"""A status is read whole or not at all."""

import shutil
from pathlib import Path

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
