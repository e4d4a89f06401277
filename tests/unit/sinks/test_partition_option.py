"""Which partitions a sink carries, as its command is told."""

import pytest
import typer

from meterproof_sinks.commands.options import partition_numbers


@pytest.mark.parametrize(
    ("text", "numbers"), [(None, None), ("0", [0]), ("2,0,1", [0, 1, 2]), ("1,1", [1]), (" 3 , 4", [3, 4])]
)
def test_partitions_are_told_apart(text: str | None, numbers: list[int] | None) -> None:
    assert partition_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "-1", "0,-1", "1,,2", "0-2", "1.0"])
def test_what_names_no_partitions_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a list of partitions like 0,1,2"):
        partition_numbers(text)
