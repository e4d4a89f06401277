"""Options that several commands share, so that each means the same and is described in the same words everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from meterproof.command_options import AsJson, Bootstrap, Data, Prefix

__all__ = ["AsJson", "Audit", "Bootstrap", "Data", "Prefix", "Url", "Wait"]

Audit = Annotated[Path | None, typer.Option(help="Audit folder. Default: DATA/audit.")]
Url = Annotated[
    str | None, typer.Option(help="A ClickHouse server, http(s)://host:port; default: the data folder's own.")
]
Wait = Annotated[
    float,
    typer.Option("--wait-s", help="Seconds to wait for running sinks to do it. What was asked stays.", min=0),
]
