"""Options that every stream command takes."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Option(help="Folder of the deployment on this machine.")]
Bootstrap = Annotated[str | None, typer.Option(help="Kafka's address, host:port.")]
Prefix = Annotated[str | None, typer.Option("--prefix", help="Prefix of the deployment's topics.")]
Instance = Annotated[str | None, typer.Option(help="Stable unique name of this worker; default: host name.")]
