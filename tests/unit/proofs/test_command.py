"""The `meterproof` command over packages that really are on the path, as an installer would have put them there."""

import subprocess
import sys
from importlib.metadata import version
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from meterproof_proofs import command

GREET = '''\
"""The module of the greeting."""

import sys


def main(argv: list[str]) -> int:
    """Greet the one named.

    Second paragraph.
    """
    sys.stdout.write(f"hello {' '.join(argv)}\\n")
    return 3 if argv == ["nobody"] else 0


def interrupted(argv: list[str]) -> int:
    """Wait for ever."""
    raise KeyboardInterrupt
'''


class Site:
    """A folder on the path into which a test installs packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, commands: dict[str, str], modules: dict[str, str]) -> None:
        """Lay out one distribution: its entry points and its modules by dotted name."""
        metadata = self.folder / f"{distribution}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {target}" for name, target in commands.items()]
        (metadata / "entry_points.txt").write_text("\n".join([f"[{command.GROUP}]", *lines]) + "\n")
        for module, source in modules.items():
            file = self.folder.joinpath(*module.split(".")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("greeting_package")]:
        monkeypatch.delitem(sys.modules, name)
    made = Site(tmp_path)
    made.install(
        "greeting-package",
        {"zz-greet": "greeting_package.commands.greet:main", "zz-wait": "greeting_package.commands.greet:interrupted"},
        {
            "greeting_package.__init__": "raise RuntimeError('imported for nothing')\n",
            "greeting_package.commands.__init__": "",
            "greeting_package.commands.greet": GREET,
        },
    )
    return made


@pytest.fixture
def importable(site: Site) -> Site:
    (site.folder / "greeting_package" / "__init__.py").write_text("")
    return site


def listed(output: str) -> dict[str, str]:
    """Return the summaries by command name out of the help text."""
    lines = output.partition("commands:\n")[2].splitlines()
    return {name: summary.strip() for name, _, summary in (line.strip().partition(" ") for line in lines)}


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_every_command_with_its_first_docstring_line(
    site: Site, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    """Without importing them: the package here could not even be imported."""
    assert command.main([word]) == 0
    summaries = listed(capsys.readouterr().out)
    assert summaries["zz-greet"] == "Greet the one named."
    assert summaries["zz-wait"] == "Wait for ever."
    assert list(summaries) == sorted(summaries)
    assert not any(name.startswith("greeting_package") for name in sys.modules)


def test_help_says_what_is_broken_and_lists_the_rest(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install(
        "broken-package",
        {"zz-gone": "broken_package.gone:main", "zz-garbled": "broken_package.garbled:main", "zz-bare": "bare:main"},
        {"broken_package.__init__": "", "broken_package.garbled": "def main(:\n", "bare": "def main(argv): return 0\n"},
    )
    assert command.main(["--help"]) == 0
    summaries = listed(capsys.readouterr().out)
    assert "module is missing" in summaries["zz-gone"]
    assert "cannot be read" in summaries["zz-garbled"]
    assert summaries["zz-bare"] == ""
    assert summaries["zz-greet"] == "Greet the one named."


def test_help_takes_the_module_docstring_where_the_function_comes_from_elsewhere(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install(
        "forwarding", {"zz-forward": "forwarding:main"}, {"forwarding": '"""Go on."""\nfrom elsewhere import main\n'}
    )
    assert command.main(["--help"]) == 0
    assert listed(capsys.readouterr().out)["zz-forward"] == "Go on."


def test_a_command_gets_its_arguments_and_gives_its_exit_code(
    importable: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["zz-greet", "--loud", "you"]) == 0
    assert capsys.readouterr().out == "hello --loud you\n"
    assert command.main(["zz-greet", "nobody"]) == 3


def test_arguments_come_from_the_process_by_default(
    importable: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["meterproof", "zz-greet", "all"])
    assert command.main() == 0
    assert capsys.readouterr().out == "hello all\n"


def test_no_command_shows_the_help_as_an_error(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: meterproof COMMAND")


def test_an_unknown_command_suggests_the_nearest(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["zz-gret"]) == 2
    assert capsys.readouterr().err == "meterproof: unknown command 'zz-gret'; did you mean 'zz-greet'?\n"
    assert command.main(["qqqqqqqq"]) == 2
    assert "'meterproof --help' lists what is installed" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"meterproof {version('meterproof-proofs')}\n"


def test_two_packages_cannot_share_a_name(importable: Site, capsys: pytest.CaptureFixture[str]) -> None:
    importable.install("rival", {"zz-greet": "rival:main"}, {"rival": "def main(argv): return 0\n"})
    assert command.main(["zz-greet"]) == 1
    assert "declared more than once (greeting_package.commands.greet:main, rival:main)" in capsys.readouterr().err


def test_a_missing_library_is_named(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("needy", {"zz-needy": "needy:main"}, {"needy": "import a_library_nobody_has\n"})
    assert command.main(["zz-needy"]) == 1
    assert "'zz-needy' needs the Python module 'a_library_nobody_has'" in capsys.readouterr().err


def test_an_interrupt_ends_without_a_traceback(importable: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["zz-wait"]) == 130
    assert capsys.readouterr().err == "meterproof: 'zz-wait' interrupted\n"


def test_an_interrupt_while_a_command_is_loaded_is_one_too(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.folder / "greeting_package" / "__init__.py").write_text("raise KeyboardInterrupt\n")
    assert command.main(["zz-wait"]) == 130
    assert capsys.readouterr().err == "meterproof: 'zz-wait' interrupted\n"


def test_unexpected_errors_are_not_hidden(site: Site) -> None:
    with pytest.raises(RuntimeError, match="imported for nothing"):
        command.main(["zz-greet"])


def test_a_character_that_the_terminal_lacks_is_spelled(importable: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, encoding="latin-1"))
    assert command.main(["zz-greet", "\u03b3"]) == 0
    sys.stdout.flush()
    assert written.getvalue() == b"hello \\u03b3\n"


def test_the_installed_script_runs() -> None:
    script = Path(sys.executable).with_name("meterproof")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"meterproof {version('meterproof-proofs')}\n"
