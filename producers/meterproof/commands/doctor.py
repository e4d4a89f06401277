"""`meterproof doctor`: is everything in order before the first event is sent."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from meterproof.command_line import run_app
from meterproof.command_options import Bootstrap, Data, Prefix
from meterproof.deployment import DataFolder
from meterproof.errors import MeterError

if TYPE_CHECKING:
    from meterproof.doctor import Finding, Subject

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: meterproof doctor --data data --key data/keys/gateway.key --source gateway/chat --json")
def doctor(
    data: Data = Path("data"),
    key: Annotated[
        Path | None, typer.Option(help="A producer's key file; default: every producer key of the data folder.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="A source that the key is to report for.")] = None,
    registry: Annotated[Path | None, typer.Option(help="Key registry; default: the data folder's own.")] = None,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Annotated[bool, typer.Option("--json", help="One array of check, outcome, detail, remedy.")] = False,
) -> None:
    """Look at keys, registry, folder, broker, topics, partitions, price book and clocks; say what to do about faults.

    Exit code: 0 nothing failed, 1 something failed, 2 usage.
    """
    from meterproof.doctor import Subject

    folder = DataFolder(data)
    subject = Subject(
        folder=folder,
        kafka=folder.kafka_settings(bootstrap, topic_prefix),
        registry=registry or folder.registry,
        key=key,
        source=source,
    )
    findings = asyncio.run(_all(subject))
    if as_json:
        typer.echo(orjson.dumps([finding.as_json() for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{finding.outcome:8}{finding.check:14}{finding.detail}")
            if finding.remedy:
                typer.echo(f"{'':8}{'do':14}{finding.remedy}")
    if any(finding.outcome == "failed" for finding in findings):
        raise typer.Exit(1)


async def _all(subject: "Subject") -> "list[Finding]":
    from meterproof.doctor import examine

    return [finding async for finding in examine(subject)]


def main(argv: list[str]) -> int:
    """Look whether everything is in order before anything is counted."""
    return run_app(app, "meterproof doctor", argv, (MeterError, OSError))
