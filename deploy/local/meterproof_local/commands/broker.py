"""`meterproof broker`: the local Kafka on its own, without the rest of the pipeline."""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from meterproof_local.broker import LocalBroker
from meterproof_local.download_line import show_download
from meterproof_local.errors import LocalKafkaError
from meterproof_local.jars import kafka_version

_POLL_INTERVAL_S = 0.2

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def main(argv: list[str]) -> int:
    """Run one real Apache Kafka on this machine."""
    try:
        app(argv, prog_name="meterproof broker")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@app.callback()
def _broker() -> None:
    """Run one real Apache Kafka on this machine."""


@app.command(
    epilog="Example: meterproof broker run --data data/kafka",
)
def run(
    data: Annotated[
        Path, typer.Option(help="Folder for records, logs and ports; created if missing.", file_okay=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when ready.")] = False,
) -> None:
    """Start Kafka, print its address when it is ready, and stop it on Ctrl-C or SIGTERM.

    Records and ports are kept in the folder for the next run. The first run fetches 45 MB of jars.

    Exit code: 0 after Ctrl-C or SIGTERM, 1 if Kafka did not start or ended by itself.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    broker = LocalBroker(data, on_progress=show_download)
    try:
        with broker:
            if as_json:
                print(
                    json.dumps({"bootstrap": broker.bootstrap, "pid": broker.pid, "kafka": kafka_version()}), flush=True
                )
            else:
                print(f"Kafka {kafka_version()} is ready: {broker.bootstrap}   (Ctrl-C stops it)", flush=True)
            while broker.poll() is None:
                time.sleep(_POLL_INTERVAL_S)
            print(broker.last_words(f"Kafka ended by itself (exit code {broker.poll()})"), file=sys.stderr)
    except LocalKafkaError as error:
        print(f"meterproof broker: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return
    raise typer.Exit(1)
