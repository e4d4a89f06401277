"""The log that a command of the stream sets up."""

import contextlib
import io

import structlog
import typer

from meterproof_stream.commands.running import run_command


def test_a_log_goes_to_the_stderr_of_the_moment() -> None:
    app = typer.Typer()

    @app.command()
    def _command() -> None:
        """Nothing."""

    with io.StringIO() as of_the_command, contextlib.redirect_stderr(of_the_command):
        assert run_command(app, "nothing", []) == 0
    with io.StringIO() as later, contextlib.redirect_stderr(later):
        structlog.get_logger("after").warning("still_heard")
        assert "still_heard" in later.getvalue()
