"""Before a person: asking for a yes, and waiting for the audit sink to carry out what it was asked."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


def confirm(question: str) -> None:
    """Ask on stderr, and end the command with 1 unless the answer is yes; nobody there is no yes.

    Raises:
        Exit: the answer is another one.
    """
    try:
        if typer.confirm(question, err=True):
            return
    except typer.Abort:
        sys.stderr.write("\n")
    sys.stderr.write("Nothing was done, since nobody said yes; with --yes nobody is asked.\n")
    raise typer.Exit(1)


@contextmanager
def told_waiting() -> Iterator[Callable[[str, float], None]]:
    """What to call while a log's writer is waited for: told on stderr, once per log, or as a line that moves."""
    from rich.console import Console

    console = Console(stderr=True)
    told: set[str] = set()
    with console.status("looking") as status:

        def waiting(origin: str, waited_s: float) -> None:
            text = f"{origin}: its writer was asked, and does it between two writes"
            if console.is_terminal:
                status.update(f"{text} ({waited_s:.0f} s)")
            elif origin not in told:
                sys.stderr.write(f"{text}; waiting\n")
            told.add(origin)

        yield waiting
