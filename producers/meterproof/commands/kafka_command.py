"""How the commands that talk to Kafka end."""

import typer

from meterproof.command_line import run_app
from meterproof.errors import MeterError
from meterproof.kafka.errors import KafkaProblem
from meterproof_schemas.errors import ContractError


def run(app: typer.Typer, name: str, argv: list[str]) -> int:
    """Run a command's app; its exit code, see `run_app`."""
    return run_app(app, f"meterproof {name}", argv, (KafkaProblem, MeterError, ContractError, OSError))
