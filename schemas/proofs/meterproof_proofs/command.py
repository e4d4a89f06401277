"""The `meterproof` command: finds the sub-commands that the installed packages declare and runs one of them.

A sub-command is an entry point of the group `meterproof.commands`: its name, and a function `main(argv) -> int` whose
first docstring line is its summary. Only the one that is called gets imported; the summaries are read from the source
text, so that `--help` stays quick and a package that cannot be imported does not break the others.

This package's own `check` is found without asking for entry points, which costs more than the whole check of a proof.
"""

import gc
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final, TextIO, cast

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from importlib.metadata import EntryPoint

GROUP: Final = "meterproof.commands"
"""Entry-point group in which packages declare their sub-commands."""

_OWN: Final = "check"

_SUCCESS: Final = 0
_FAILURE: Final = 1
_USAGE: Final = 2
_INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `meterproof` with these arguments (by default the process's own) and return the exit code.

    0 success, 1 what the sub-command refuses or cannot do, 2 wrong usage, 130 interrupted.
    """
    _spell_what_cannot_be_shown(sys.stdout)
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else None
    if name is None:
        _show_help(sys.stderr)
        return _USAGE
    if name in {"--help", "-h", "help"}:
        _show_help(sys.stdout)
        return _SUCCESS
    if name == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"meterproof {version('meterproof-proofs')}\n")
        return _SUCCESS
    return _run(name, arguments[1:])


def _spell_what_cannot_be_shown(stream: TextIO) -> None:
    """Have a character that the terminal's encoding lacks written as an escape, where it would end the command."""
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


def _run(name: str, arguments: list[str]) -> int:
    if name == _OWN:
        from meterproof_proofs.commands.check import main as check

        return _called(name, check, arguments)
    from importlib.metadata import entry_points

    found = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not found:
        _complain(_unknown(name))
        return _USAGE
    if len(found) > 1:
        _complain(f"'{name}' is declared more than once ({', '.join(sorted(found))}); uninstall all packages but one")
        return _FAILURE
    point = next(iter(found.values()))
    gc.disable()  # what is loaded stays: looking through it for garbage, over and over, takes a fifth of a start
    try:
        command = cast("Callable[[list[str]], int]", point.load())
    except ModuleNotFoundError as error:
        _complain(f"'{name}' needs the Python module '{error.name}', which is not installed; install it and try again")
        return _FAILURE
    except KeyboardInterrupt:
        return _interrupted(name)
    finally:
        gc.freeze()
        gc.enable()
    return _called(name, command, arguments)


def _called(name: str, command: Callable[[list[str]], int], arguments: list[str]) -> int:
    try:
        return command(arguments)
    except KeyboardInterrupt:
        return _interrupted(name)


def _interrupted(name: str) -> int:
    _complain(f"'{name}' interrupted")
    return _INTERRUPTED


def _unknown(name: str) -> str:
    import difflib
    from importlib.metadata import entry_points

    names = sorted({point.name for point in entry_points(group=GROUP)})
    nearest = difflib.get_close_matches(name, names, n=1)
    advice = f"did you mean '{nearest[0]}'?" if nearest else "'meterproof --help' lists what is installed"
    return f"unknown command '{name}'; {advice}"


def _complain(message: str) -> None:
    sys.stderr.write(f"meterproof: {message}\n")


def _show_help(stream: TextIO) -> None:
    from importlib.metadata import entry_points

    summaries = {point.name: _summary(point) for point in entry_points(group=GROUP)}
    width = max(map(len, summaries), default=0)
    lines = [f"  {name:{width}}  {summaries[name]}".rstrip() for name in sorted(summaries)]
    stream.write(
        "usage: meterproof COMMAND [ARGUMENTS...]\n"
        "       meterproof COMMAND --help\n"
        "       meterproof --version\n"
        "\n"
        "Usage metering that nobody has to take on trust.\n"
        "\n"
        "commands:\n",
    )
    stream.write("\n".join(lines or ["  none: no installed package declares a command"]) + "\n")


def _summary(point: "EntryPoint") -> str:
    """Return the first docstring line of an entry point's function, read from its source without importing it."""
    import ast

    source = _source(point.module)
    if source is None:
        return "(not installed completely: its module is missing)"
    try:
        module = ast.parse(source)
    except SyntaxError:
        return "(not installed completely: its module cannot be read)"
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return (ast.get_docstring(module) or "").partition("\n")[0]


def _source(module: str) -> str | None:
    """Return the source text of a module, or None; imports neither it nor the packages above it."""
    import importlib.util
    from importlib.machinery import PathFinder

    spec: ModuleSpec | None = None
    path: list[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        spec = PathFinder.find_spec(name, path) if depth > 1 else importlib.util.find_spec(name)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    get_source = getattr(spec.loader if spec else None, "get_source", None)
    return cast("str | None", get_source(module)) if get_source else None
