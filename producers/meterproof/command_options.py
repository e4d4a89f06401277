"""Options that commands of all members take, so that each means the same and is told in the same words everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Option(help="Folder of the deployment on this machine.")]
Bootstrap = Annotated[
    str | None,
    typer.Option(
        help="Kafka's address, host:port.",
        envvar="METERPROOF_KAFKA_BOOTSTRAP",
        show_default="the data folder's, or 127.0.0.1:9092",
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        help="What stands before every topic's name.",
        envvar="METERPROOF_KAFKA_TOPIC_PREFIX",
        show_default="the data folder's, or none",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
