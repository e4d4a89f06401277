"""Every command that is installed, found as a person finds it: by `--help`."""

import re
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest

from meterproof_proofs.command import main as meterproof

GROUP = "meterproof.commands"
_OF_TYPER = re.compile(r"Commands[ ─╮]*:?\n(.*?)(?:╰|\n\n\S|\Z)", re.DOTALL)
_OF_ARGPARSE = re.compile(r"\n  COMMAND\n(.*?)(?:\n\n|\Z)", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_NAME = re.compile(r"^(?:  |    |│ )([a-z][\w-]*) ", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command with these arguments: its exit code and all that it said, without colours."""
    try:
        code: object = meterproof(list(arguments))
    except SystemExit as end:
        code = end.code
    told = capsys.readouterr()
    assert isinstance(code, int), arguments
    return code, _COLOUR.sub("", told.out + told.err)


def leaves(capsys: pytest.CaptureFixture[str], *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The commands at and below a path that have none below them, each with its help."""
    code, told = say(capsys, *path, "--help")
    assert code == 0, path
    below = _OF_TYPER.search(told) or _OF_ARGPARSE.search(told)
    if below is None:
        yield path, told
        return
    names = _NAME.findall(below[1])
    assert names, told
    for name in names:
        yield from leaves(capsys, *path, name)


@pytest.mark.parametrize("name", sorted({entry.name for entry in entry_points(group=GROUP)}))
def test_a_command_shows_an_example_that_it_takes_and_refuses_what_it_does_not_know(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    for path, told in leaves(capsys, name):
        above, found, below = told.partition("Example")
        assert found, f"meterproof {' '.join(path)} --help shows no example"
        below = re.sub(r"-\n\s*", "-", below)  # help is wrapped behind hyphens too
        examples = re.split(r"·|(?=meterproof )", " ".join(below.split()))
        shown = [example for example in examples if example.startswith(f"meterproof {' '.join(path)} ")]
        assert shown, f"the example of {path} is one of another command"
        unknown = {option for example in shown for option in _OPTION.findall(example)} - set(_OPTION.findall(above))
        assert not unknown, f"the example of {path} has options that the command lacks"
        assert not set("╭│╰") & set(told), f"the help of {path} is in another style"
        assert "--install-completion" not in told, path
        if "--bootstrap" in above:
            assert "--data " in above, f"{path} cannot be told of a deployment on this machine"
        code, said = say(capsys, *path, "--no-such-option")
        assert code == 2, path
        assert "Traceback" not in said
        assert "--no-such-option" in said or "required" in said or "Missing" in said, said
