"""What the commands that talk to Kafka have in common: their options and how they end."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from meterproof.errors import MeterError
from meterproof.kafka.errors import KafkaProblem
from meterproof_schemas.errors import ContractError

_FALSE = 1
_USAGE = 2

Data = Annotated[Path, typer.Option(help="Folder of the deployment on this machine.")]
Bootstrap = Annotated[
    str | None,
    typer.Option(
        help="Kafka's address, host:port.",
        envvar="METERPROOF_KAFKA_BOOTSTRAP",
        show_default="the data folder's, or 127.0.0.1:9092",
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        help="What stands before every topic's name.",
        envvar="METERPROOF_KAFKA_TOPIC_PREFIX",
        show_default="the data folder's, or none",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def run(app: typer.Typer, name: str, argv: list[str]) -> int:
    """Run a command's app; what is expected to go wrong ends as one message on standard error and an exit code."""
    try:
        app(args=argv, prog_name=f"meterproof {name}")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        sys.stderr.write(f"meterproof {name}: setting {place or 'of Kafka'}: {fault['msg']}\n")
        return _USAGE
    except (KafkaProblem, MeterError, ContractError, OSError) as error:
        sys.stderr.write(f"meterproof {name}: {error}\n")
        return _FALSE
    return 0
