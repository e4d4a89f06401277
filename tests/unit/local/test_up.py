"""`meterproof up`, as far as nothing is started."""

from pathlib import Path

import pytest

from meterproof_local.commands.up import main


def test_more_logs_than_topics_can_have_are_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    assert main(["--data", str(folder), "--partitions", "10001"]) == 2
    assert "--partitions" in capsys.readouterr().err
    assert not folder.exists()
