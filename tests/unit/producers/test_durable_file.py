"""A file that is replaced holds the old content or the new, whatever fails."""

import errno
import os
from pathlib import Path

import pytest

from meterproof.durable_file import replace_durably


def test_the_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "registry.json"
    for content in (b"first", b"2nd"):
        replace_durably(file, content, mode=0o600)
        assert file.read_bytes() == content
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_a_disk_that_refuses_leaves_the_old_content_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "registry.json"
    replace_durably(file, b"old")
    monkeypatch.setattr("meterproof.durable_file.os.fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        replace_durably(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
