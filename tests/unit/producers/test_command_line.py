"""How a command ends: its exit code, and what it says of an error that was expected."""

from collections.abc import Callable

import pytest
import typer

from meterproof.command_line import USAGE, run_app
from meterproof.commands import doctor, prices, topics

Main = Callable[[list[str]], int]


@pytest.mark.parametrize(("main", "command"), [(topics.main, ["check"]), (prices.main, ["list"]), (doctor.main, [])])
def test_faulty_settings_and_wrong_usage_are_told_apart(
    main: Main, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*command, "--no-such-option"]) == USAGE
    assert "--no-such-option" in capsys.readouterr().err
    assert main([*command, "--prefix", "with space"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert ": topic_prefix: " in line
    monkeypatch.setenv("METERPROOF_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("METERPROOF_KAFKA_SASL_PASSWORD", "s3cret")
    assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs METERPROOF_KAFKA_SASL_USERNAME" in line
    assert ": : " not in line
    assert "s3cret" not in line


def test_errors_that_nobody_expected_come_out() -> None:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        run_app(app, "test", [], (OSError,))
    assert run_app(app, "test", [], (KeyError,)) == 1
