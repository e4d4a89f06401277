"""Options that several commands share, so that each means the same and is described in the same words everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from meterproof.command_options import AsJson, Bootstrap, Data, Prefix

__all__ = ["AsJson", "Audit", "Bootstrap", "Data", "Prefix", "Url", "Wait", "partition_numbers"]

Audit = Annotated[Path | None, typer.Option(help="Audit folder. Default: DATA/audit.")]
Url = Annotated[
    str | None, typer.Option(help="A ClickHouse server, http(s)://host:port; default: the data folder's own.")
]
Wait = Annotated[
    float,
    typer.Option("--wait-s", help="Seconds to wait for running sinks to do it. What was asked stays.", min=0),
]


def partition_numbers(text: str | None) -> list[int] | None:
    """The partitions of an option like `0,1,2`; None, if it was not given, is all.

    Raises:
        BadParameter: the text is no such list.
    """
    if text is None:
        return None
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 0:
        raise typer.BadParameter(f"{text!r} is not a list of partitions like 0,1,2", param_hint="--partitions")
    return numbers
