"""Options that several commands share, so that each means the same and is described in the same words everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Option(help="Folder of the deployment on this machine.")]
Audit = Annotated[Path | None, typer.Option(help="Audit folder. Default: DATA/audit.")]
Url = Annotated[
    str | None, typer.Option(help="A ClickHouse server, http(s)://host:port; default: the data folder's own.")
]
Bootstrap = Annotated[str | None, typer.Option(help="Kafka's address, host:port.")]
Prefix = Annotated[str | None, typer.Option("--prefix", help="Prefix of the deployment's topics.")]
Wait = Annotated[
    float,
    typer.Option("--wait-s", help="Seconds to wait for running sinks to do it. What was asked stays.", min=0),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]
