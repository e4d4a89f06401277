"""A key file is there whole and durable, or not at all."""

import errno
import os
from pathlib import Path

import pytest

from meterproof.commands import keygen
from meterproof.keys import ProducerKey

SEED = b"\x05" * 32


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("at", [1, 2])
def test_a_disk_that_refuses_leaves_no_key_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: int, at: int
) -> None:
    """Neither the file's bytes nor its name can be made durable: nobody may go on with a key that a crash takes."""
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == at:
            raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr("meterproof.seed_key.os.fsync", fsync)
    path = tmp_path / "keys" / "gateway.key"
    with pytest.raises(OSError, match=os.strerror(failure)):
        ProducerKey(SEED).save(path)
    assert list(path.parent.iterdir()) == []
    monkeypatch.undo()
    ProducerKey(SEED).save(path)
    assert ProducerKey.load(path).key_id == ProducerKey(SEED).key_id


def test_the_command_says_so_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("meterproof.seed_key.os.fsync", fsync)
    assert keygen.main(["log", "--out", str(tmp_path / "log.key")]) == 1
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert list(tmp_path.rglob("*.key")) == []
