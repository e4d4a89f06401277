"""`meterproof sink webhook …`: the commands of the webhook worker; `app` is mounted by `meterproof sink`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Send alerts to HTTP endpoints, signed.")

_Data = Annotated[Path, typer.Option(help="Folder of the deployment on this machine.")]
_Bootstrap = Annotated[str | None, typer.Option(help="Kafka's address, host:port.")]
_Prefix = Annotated[str | None, typer.Option("--prefix", help="Prefix of the deployment's topics.")]


@app.callback()
def _webhook() -> None:
    """Send alerts to HTTP endpoints, signed."""


@app.command(
    epilog="Example: meterproof sink webhook run --data data   ·   "
    "meterproof sink webhook run --data data --endpoints /etc/meterproof/webhooks.json"
)
def run(
    data: _Data = Path("data"),
    endpoints: Annotated[
        Path | None, typer.Option(help="File that states where alerts go. Default: DATA/webhooks.json.")
    ] = None,
    bootstrap: _Bootstrap = None,
    topic_prefix: _Prefix = None,
) -> int:
    """Send every alert to the endpoints that want it, with Standard Webhooks signatures, until SIGTERM.

    Run one worker. An alert that is repeated has the same webhook-id, so that a receiver can drop it.

    Exit code: 0 stopped as asked, 1 could not start, 70 unexpected error, 75 Kafka does not answer.
    """
    # Loaded when it runs, so that --help of all commands stays quick.
    from meterproof_sinks.webhook_endpoints import load_endpoints  # noqa: PLC0415
    from meterproof_sinks.webhook_process import run_webhook_process  # noqa: PLC0415

    places = load_endpoints(endpoints or data / "webhooks.json")
    return run_webhook_process(places, data, bootstrap=bootstrap, topic_prefix=topic_prefix)


@app.command(
    epilog="Example: meterproof sink webhook dead --json   ·   "
    "meterproof sink webhook dead --endpoint pager --send-again"
)
def dead(  # noqa: PLR0917 - one parameter per option
    data: _Data = Path("data"),
    endpoint: Annotated[str | None, typer.Option(help="Only of this endpoint.")] = None,
    send_again: Annotated[  # noqa: FBT002 - a flag of a command line
        bool, typer.Option("--send-again", help="Let the worker send them again, once it has been started anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,  # noqa: FBT002 - a flag
    bootstrap: _Bootstrap = None,
    topic_prefix: _Prefix = None,
) -> int:
    """List the messages that were given up, with the reason.

    Exit code: 0 listed; 1 Kafka cannot be asked.
    """
    from meterproof.deployment import DataFolder  # noqa: PLC0415
    from meterproof_sinks.webhook_deliveries import forget, read_deliveries  # noqa: PLC0415

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
        typer.echo(f"{len(found)} will be sent again; start the worker anew", err=True)
    return 0
