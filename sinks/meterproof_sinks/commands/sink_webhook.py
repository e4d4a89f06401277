"""`meterproof sink webhook …`: the commands of the webhook worker; `app` is mounted by `meterproof sink`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from meterproof_sinks.commands.options import Bootstrap, Data, Prefix

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Send alerts to HTTP endpoints, signed.")


@app.callback()
def _webhook() -> None:
    """Send alerts to HTTP endpoints, signed."""


@app.command(
    epilog="Example: meterproof sink webhook run --data data   ·   "
    "meterproof sink webhook run --data data --endpoints /etc/meterproof/webhooks.json"
)
def run(
    data: Data = Path("data"),
    endpoints: Annotated[
        Path | None, typer.Option(help="File that states where alerts go. Default: DATA/webhooks.json.")
    ] = None,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> int:
    """Send every alert to the endpoints that want it, with Standard Webhooks signatures, until SIGTERM.

    Of several workers one sends and the others stand by. An alert that is repeated after a crash has the same
    webhook-id, so that a receiver can drop it.

    Exit code: 0 stopped as asked, 1 could not start, 70 unexpected error, 75 Kafka does not answer.
    """
    # Loaded when it runs, so that --help of all commands stays quick.
    from meterproof.deployment import DataFolder
    from meterproof_sinks.webhook_endpoints import load_endpoints
    from meterproof_sinks.webhook_process import run_webhook_process

    places = load_endpoints(endpoints or DataFolder(data).webhooks)
    return run_webhook_process(places, data, bootstrap=bootstrap, topic_prefix=topic_prefix)


@app.command(
    epilog="Example: meterproof sink webhook dead --json   ·   "
    "meterproof sink webhook dead --endpoint pager --send-again"
)
def dead(
    data: Data = Path("data"),
    endpoint: Annotated[str | None, typer.Option(help="Only of this endpoint.")] = None,
    send_again: Annotated[
        bool, typer.Option("--send-again", help="Have them sent again, by the worker that runs or the next one.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> int:
    """List the messages that were given up, with the reason.

    Exit code: 0 listed; 1 Kafka cannot be asked.
    """
    from meterproof.deployment import DataFolder
    from meterproof_sinks.webhook_deliveries import forget, read_deliveries

    kafka = DataFolder(data).kafka_settings(bootstrap, topic_prefix)
    found = [
        one for one in asyncio.run(read_deliveries(kafka)) if one.outcome == "dead" and endpoint in {None, one.endpoint}
    ]
    for one in found:
        if as_json:
            typer.echo(one.model_dump_json())
        else:
            tried = f"{one.attempts} attempt{'' if one.attempts == 1 else 's'}"
            typer.echo(f"{one.time}  {one.endpoint}  {one.id}  {one.alert}  {tried}: {one.reason}")
    if send_again and found:
        asyncio.run(forget(kafka, found))
        typer.echo(f"{len(found)} will be sent again", err=True)
    return 0
