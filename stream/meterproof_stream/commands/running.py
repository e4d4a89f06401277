"""How every sub-command of this package turns its end into an exit code and at most one message on stderr."""

import logging
import sys

import structlog
import typer

from meterproof.command_line import run_app
from meterproof.errors import MeterError
from meterproof.kafka.errors import KafkaProblem
from meterproof_schemas.errors import ContractError
from meterproof_stream.errors import StreamError


def run_command(app: typer.Typer, name: str, argv: list[str]) -> int:
    """Run a typer app; errors that are expected of a stream command are told, anything else comes out.

    Until a worker sets up its own log, only warnings are shown, on stderr: what a command prints is its result.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # the stderr of the moment
    )
    return run_app(app, name, argv, (ContractError, KafkaProblem, MeterError, StreamError, OSError))
