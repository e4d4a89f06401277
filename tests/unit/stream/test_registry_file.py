"""The registry in force follows its file, and never becomes a faulty one."""

from pathlib import Path

import pytest

from meterproof_schemas.errors import InvalidRegistry
from meterproof_stream.registry_file import RegistryFile
from tests.builders import make_key, make_registry, make_registry_file

ONE, TWO = make_key("one"), make_key("two")


def replace(path: Path, content: bytes) -> None:
    """As a ConfigMap does it: another file under the same name."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def test_a_replaced_file_is_in_force_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    path.write_bytes(make_registry_file(ONE))
    file = RegistryFile(path)
    assert not file.refresh()
    replace(path, make_registry_file(ONE, TWO))
    assert file.refresh()
    assert file.current.digest == make_registry(ONE, TWO).digest


@pytest.mark.parametrize("fault", ["faulty", "missing"])
def test_a_file_that_turns_bad_changes_nothing(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "registry.json"
    path.write_bytes(make_registry_file(ONE))
    file = RegistryFile(path)
    if fault == "faulty":
        replace(path, b"{")
    else:
        path.unlink()
    assert file.refresh()
    assert "registry" in str(file.fault)
    assert file.current.digest == make_registry(ONE).digest
    assert not file.refresh()
    replace(path, make_registry_file(TWO))
    assert file.refresh()
    assert str(file.fault) == "None"
    assert file.current.digest == make_registry(TWO).digest


def test_a_worker_does_not_start_without_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidRegistry, match="keygen"):
        RegistryFile(tmp_path / "absent.json")
