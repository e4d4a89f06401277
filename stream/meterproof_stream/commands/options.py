"""Options that every stream command takes."""

from pathlib import Path
from typing import Annotated

import typer

from meterproof_stream.runtime import Runtime

Data = Annotated[Path, typer.Option(help="Folder of the deployment on this machine.")]
Bootstrap = Annotated[str | None, typer.Option(help="Kafka's address, host:port.")]
Prefix = Annotated[str | None, typer.Option("--prefix", help="Prefix of the deployment's topics.")]
Instance = Annotated[str | None, typer.Option(help="Stable unique name of this worker; default: host name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
LeaveOnStop = Annotated[
    bool | None,
    typer.Option(
        "--leave/--stay",
        help="When stopped by SIGTERM, give up the place in the group, because this worker will not come back; "
        "default: stay, and find it again after a restart.",
        show_default=False,
    ),
]
RuntimeChoice = Annotated[
    Runtime | None, typer.Option("--runtime", help="What delivers the records; default: faust.", show_default=False)
]
