"""`meterproof topics`: create and check a deployment's topics."""

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meterproof.command_options import AsJson, Bootstrap, Data, Prefix
from meterproof.commands.kafka_command import run
from meterproof.deployment import DataFolder

if TYPE_CHECKING:
    from meterproof.kafka.topic_check import TopicFault

_HOUR_MS = 3_600_000

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def main(argv: list[str]) -> int:
    """Create or check the topics of a deployment; never alters one."""
    return run(app, "topics", argv)


@app.callback()
def _topics() -> None:
    """Create or check the topics of a deployment; never alters one."""


@app.command(
    epilog="Example: meterproof topics create --name meter.example.com/production --deployment production "
    "--partitions 12 --replication-factor 3"
)
def create(
    *,
    name: Annotated[
        str, typer.Option(help="Names the logs in their checkpoints: a URL without schema, yours for ever.")
    ],
    deployment: Annotated[str, typer.Option(help="The audience that batches are signed for.")] = "default",
    partitions: Annotated[int, typer.Option(min=1, max=10_000, help="Number of logs, fixed for ever.")] = 4,
    replication_factor: Annotated[
        int, typer.Option(min=1, max=99, help="Copies of each record on different brokers; 1 on a laptop.")
    ] = 3,
    min_insync_replicas: Annotated[
        int | None,
        typer.Option(
            min=1, help="Copies before a record is acknowledged.", show_default="2 from three replicas on, else 1"
        ),
    ] = None,
    horizon_hours: Annotated[int, typer.Option(min=1, max=24 * 366, help="How late an event may come.")] = 24,
    corrections: Annotated[bool, typer.Option(help="Whether the logs take corrections: for ever so or not.")] = True,
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Create the topics that are missing, and the first record (genesis) of every log.

    Repeating it changes nothing; after an interruption it goes on where it stopped. Topics that exist are never
    altered: what is wrong with them is printed with the command that mends it.

    Exit code: 0 the deployment is complete and as the contract says, 1 refused or faults found, 2 usage.
    """
    from meterproof.kafka.topic_check import check_topics
    from meterproof.kafka.topics import Deployment, create_topics

    if min_insync_replicas is not None and min_insync_replicas > replication_factor:
        raise typer.BadParameter("cannot exceed --replication-factor", param_hint="--min-insync-replicas")
    settings = DataFolder(data).kafka_settings(bootstrap, prefix)
    wanted = Deployment(
        name=name,
        deployment=deployment,
        partitions=partitions,
        replication_factor=replication_factor,
        min_insync_replicas=min_insync_replicas,
        horizon_ms=horizon_hours * _HOUR_MS,
        corrections=corrections,
    )
    report = asyncio.run(
        create_topics(
            settings,
            wanted,
            now_ms=time.time_ns() // 1_000_000,
            random_bytes=os.urandom,
            on_progress=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
        )
    )
    faults = asyncio.run(check_topics(settings))
    if as_json:
        print(json.dumps({**asdict(report), "faults": [asdict(fault) for fault in faults]}))
    else:
        print(f"topics    {len(report.created)} created, {len(report.existing)} were there")
        print(f"geneses   {len(report.geneses_written)} written, {len(report.origins)} in all")
        print(f"logs      {name}/{report.epoch}/p0 … p{partitions - 1}")
        _show(faults)
    if faults:
        raise typer.Exit(1)


@app.command(
    epilog="Example: meterproof topics check --data data   ·   meterproof topics check --bootstrap kafka:9092 --json"
)
def check(
    data: Data = Path("data"), bootstrap: Bootstrap = None, prefix: Prefix = None, as_json: AsJson = False
) -> None:
    """Compare the deployment's topics with the contract, as every worker does when it starts.

    With --json: one array of objects with topic, fault and remedy.

    Exit code: 0 all is as it must be, 1 faults found or Kafka does not answer, 2 usage.
    """
    from meterproof.kafka.topic_check import check_topics

    faults = asyncio.run(check_topics(DataFolder(data).kafka_settings(bootstrap, prefix)))
    if as_json:
        print(json.dumps([asdict(fault) for fault in faults]))
    else:
        _show(faults)
    if faults:
        raise typer.Exit(1)


def _show(faults: "list[TopicFault]") -> None:
    if not faults:
        print("check     all topics are as the contract says")
    for fault in faults:
        print(f"FAULT     {fault.topic} {fault.fault}\n  do      {fault.remedy}")
