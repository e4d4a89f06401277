"""`meterproof replay`: publish a trace of requests as signed usage events."""

import asyncio
import hashlib
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from meterproof._meter import Meter
from meterproof.command_line import run_app
from meterproof.deployment import DataFolder
from meterproof.errors import MeterError
from meterproof.kafka.errors import KafkaProblem
from meterproof.replay import ColumnMapping, Format, InvalidTrace, event_lines, read_rows, with_duplicates
from meterproof.settings import MeterSettings
from meterproof_schemas.errors import ContractError
from meterproof_schemas.instant import parse_instant_us

PRODUCER = "replay"
"""The producer whose key `meterproof up` makes for replays."""
_US_PER_S = 1_000_000

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: meterproof replay code.csv --format azure-llm --data data --duplicates 0.1   ·   "
    "meterproof replay calls.jsonl --format jsonl --data data --map time=ts --map agent=caller --set customer=acme "
    "--map usage.input_tokens=prompt_tokens"
)
def replay(
    file: Annotated[Path, typer.Argument(help="Trace file.", exists=True, dir_okay=False)],
    data: Annotated[Path, typer.Option(help="Data folder of a running `meterproof up`.")],
    trace_format: Annotated[Format, typer.Option("--format", help="How the file is read.")] = "azure-llm",
    columns: Annotated[list[str] | None, typer.Option("--map", help="FIELD=COLUMN, for csv and jsonl.")] = None,
    constants: Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE for every row.")] = None,
    duplicates: Annotated[str, typer.Option(help="Share of events to send twice, like 0.1.")] = "0",
    seed: Annotated[int, typer.Option(help="Which events those are, and where they come again.")] = 1,
    speed: Annotated[
        float, typer.Option(help="1 is the trace's own pace, 60 a minute per second; 0 as fast as possible.")
    ] = 0,
    run: Annotated[str | None, typer.Option(help="Prefix of event ids; the same run sent twice counts once.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Turn each row of a trace into a signed usage event, times shifted so that the last row is now, and publish it."""
    share = _share(duplicates)
    mapping = ColumnMapping(_pairs(columns), _pairs(constants))
    rows = read_rows(file, trace_format, mapping)
    if not rows:
        message = f"{file} has no rows"
        raise InvalidTrace(message)
    now_us = time.time_ns() // 1000
    shift_us = now_us - max(row.time_us for row in rows)
    name = run or f"{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}-{now_us}"
    lines = list(event_lines(rows, source=PRODUCER, run=name, shift_us=shift_us))
    sent = with_duplicates(lines, share, seed)
    seconds = asyncio.run(publish(sent, DataFolder(data), speed=speed, show_progress=not as_json))
    counts = {"run": name, "events": len(lines), "duplicates": len(sent) - len(lines), "sent": len(sent)}
    if as_json:
        typer.echo(orjson.dumps(counts))
    else:
        typer.echo(
            f"sent {counts['sent']} events ({counts['duplicates']} of them duplicates) in {seconds:.1f} s, "
            f"acknowledged by Kafka; run {name}"
        )


async def publish(lines: list[bytes], folder: DataFolder, *, speed: float, show_progress: bool) -> float:
    """Record and flush all lines through a meter of the folder's deployment; returns the seconds that it took."""
    from meterproof._kafka_transport import KafkaTransport

    deployment = folder.deployment()
    settings = MeterSettings(
        deployment=deployment.deployment,
        producer=PRODUCER,
        source=PRODUCER,
        key_file=folder.keys / f"{PRODUCER}.key",
        partitions=deployment.partitions,
        room_timeout_s=120,
    )
    transport = KafkaTransport(folder.kafka_settings())
    columns = (TextColumn("sent"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    began_s = time.monotonic()
    first_us = _time_us(lines[0]) if speed else 0
    with Progress(*columns, console=Console(stderr=True), disable=not show_progress) as progress:
        task = progress.add_task("sent", total=len(lines))
        async with Meter(settings, transport) as meter:
            for line in lines:
                if speed:
                    due_s = (_time_us(line) - first_us) / _US_PER_S / speed
                    await asyncio.sleep(max(0.0, due_s - (time.monotonic() - began_s)))
                await meter.record_line(line)
                progress.advance(task)
            await meter.flush()
    return time.monotonic() - began_s


def _share(text: str) -> Decimal:
    message = "a share between 0 and 1"
    try:
        share = Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(message, param_hint="--duplicates") from None
    if not (share.is_finite() and 0 <= share <= 1):
        raise typer.BadParameter(message, param_hint="--duplicates")
    return share


def _time_us(line: bytes) -> int:
    return parse_instant_us(orjson.loads(line)["time"])


def _pairs(options: list[str] | None) -> dict[str, str]:
    pairs = {}
    for option in options or ():
        name, separator, value = option.partition("=")
        if not separator or not name or not value:
            message = f"{option!r} is not NAME=VALUE"
            raise typer.BadParameter(message)
        pairs[name] = value
    return pairs


def main(argv: list[str]) -> int:
    """Publish a trace of requests as signed usage events."""
    return run_app(app, "meterproof replay", argv, (MeterError, ContractError, KafkaProblem, OSError))
