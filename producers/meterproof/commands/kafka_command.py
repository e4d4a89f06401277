"""What the commands that talk to Kafka have in common: their options and how they end."""

import sys
from typing import Annotated

import typer
from pydantic import ValidationError

from meterproof.kafka.errors import KafkaProblem
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import ContractError

_FALSE = 1
_USAGE = 2

Bootstrap = Annotated[
    str | None,
    typer.Option(
        help="Kafka's address, host:port.", envvar="METERPROOF_KAFKA_BOOTSTRAP", show_default="127.0.0.1:9092"
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        help="What stands before every topic's name.", envvar="METERPROOF_KAFKA_TOPIC_PREFIX", show_default="none"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def settings_of(bootstrap: str | None, prefix: str | None) -> KafkaSettings:
    """The settings of the environment, with what was given as options put over them.

    Raises:
        ValidationError: an option or a variable is faulty.
    """
    given = {"bootstrap": bootstrap, "topic_prefix": prefix}
    return KafkaSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


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
    except (KafkaProblem, ContractError, OSError) as error:
        sys.stderr.write(f"meterproof {name}: {error}\n")
        return _FALSE
    return 0
