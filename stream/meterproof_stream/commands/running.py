"""How every sub-command of this package turns its end into an exit code and at most one line on stderr."""

import sys

import typer
from pydantic import ValidationError

from meterproof.errors import MeterError
from meterproof.kafka.errors import KafkaProblem
from meterproof_schemas.errors import ContractError
from meterproof_stream.errors import StreamError
from meterproof_stream.exit_codes import CLEAN, NOT_STARTED


def run_command(app: typer.Typer, name: str, argv: list[str]) -> int:
    """Run a typer app; an expected error is one line on stderr and exit code 1, anything else comes out."""
    try:
        app(args=argv, prog_name=name, standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else CLEAN
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        sys.stderr.write(f"{name}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}\n")
        return NOT_STARTED
    except (ContractError, KafkaProblem, MeterError, StreamError, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return NOT_STARTED
    return CLEAN
