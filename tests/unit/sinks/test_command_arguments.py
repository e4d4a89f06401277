"""What commands say of a folder or file that cannot be the one that is meant; nothing is made and nothing half done."""

from collections.abc import Callable
from pathlib import Path

import pytest

from meterproof_sinks.commands import audit, migrate, query, verify

Main = Callable[[list[str]], int]


@pytest.mark.parametrize(
    "command",
    [
        ["add", "--customer", "acme", "--by", "legal@example.com", "--reason", "case 12"],
        ["list"],
        ["remove", "0a1b2c3d", "--by", "legal@example.com", "--reason", "case 12 is closed"],
    ],
    ids=lambda command: str(command[0]),
)
def test_a_hold_is_not_set_where_nothing_is(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mistyped"
    assert audit.main(["hold", *command, "--data", str(folder)]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not folder.exists()


def test_to_ask_what_is_missing_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METERPROOF_CLICKHOUSE_URL", raising=False)
    folder = tmp_path / "mistyped"
    assert migrate.main(["--check", "--data", str(folder)]) == 1
    assert capsys.readouterr().out.startswith("missing: 0001_usage, ")
    assert not folder.exists()


def test_a_query_that_is_no_text_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "query.sql"
    file.write_bytes(b"SELECT '\xff'")
    assert query.main(["--file", str(file), "--data", str(tmp_path)]) == 2
    assert "no text in UTF-8" in capsys.readouterr().err


def test_a_number_of_processes_that_no_machine_has_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main([str(tmp_path), "--vkey", "log.vkey", "--jobs", "999999999999"]) == 2
    assert "--jobs" in capsys.readouterr().err
