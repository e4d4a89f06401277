"""The sub-command `leave`, the same for every stream worker."""

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer

from meterproof.command_options import AsJson, Bootstrap, Data, Prefix
from meterproof.deployment import DataFolder


def add_leave(app: typer.Typer, worker: str) -> None:
    """Add `leave` to a worker's command; its group is named for the worker."""

    @app.command(
        "leave",
        epilog=f"Example: meterproof {worker} leave {worker}-2 --data data   ·   exit codes: 0 it is out, "
        "1 it was no member",
    )
    def leave(
        instance: Annotated[str, typer.Argument(help=f"Name of the worker that is gone for good, like {worker}-2.")],
        data: Data = Path("data"),
        bootstrap: Bootstrap = None,
        topic_prefix: Prefix = None,
        as_json: AsJson = False,
    ) -> int:
        """Take a worker that will not come back out of its group, so that the others get its partitions at once.

        Without it they get them when its session ends. A worker that still runs joins again.
        """
        from meterproof.kafka.group_members import remove_member

        kafka = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
        group = f"{kafka.topic_prefix}{worker}"
        removed = asyncio.run(remove_member(kafka, group, instance))
        if as_json:
            print(orjson.dumps({"group": group, "instance": instance, "removed": removed}).decode())
        elif removed:
            print(f"{instance} is out of group {group}")
        else:
            typer.echo(f"{instance} is no member of group {group}; its status file names it `instance`", err=True)
        return 0 if removed else 1
