"""How a command of `meterproof` ends: an exit code that tells the truth, a line for an error that was expected."""

import sys

import typer
from pydantic import ValidationError

from meterproof_schemas.errors import first_fault

USAGE: int = 2
"""Exit code of wrong usage."""


def run_app(app: typer.Typer, name: str, argv: list[str], expected: tuple[type[Exception], ...]) -> int:
    """Run a typer app and return its exit code: the command's own (None is 0), 2 for wrong usage, 1 for an error.

    Errors of the `expected` types, and settings that do not validate, are told in one message on stderr; others come
    out. Help is plain text, whatever the app says.
    """
    app.rich_markup_mode = None
    command = typer.main.get_command(app)
    try:
        outcome = command.main(argv, prog_name=name, standalone_mode=False)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        sys.stderr.write(f"{name}: interrupted\n")
        return 1
    except expected as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    except ValidationError as error:
        sys.stderr.write(f"{name}: {first_fault(error)}\n")
        return 1
    except Exception as error:
        if not hasattr(error, "show"):
            raise
        error.show()  # wrong usage, as typer tells it
        return USAGE
    return outcome if isinstance(outcome, int) else 0
