"""`meterproof trace`: one event through every stage."""

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meterproof.command_line import run_app
from meterproof.errors import MeterError

if TYPE_CHECKING:
    from meterproof_local.trace import Occurrence

app = typer.Typer(add_completion=False)


@app.command(
    epilog="Example: meterproof trace rogue-000000 --data data   ·   "
    "meterproof trace 17 --source gateway --data data --json"
)
def trace(
    event_id: Annotated[str, typer.Argument(help="The event's id.")],
    data: Annotated[Path, typer.Option(help="Folder of the deployment on this machine.", file_okay=False)] = Path(
        "data"
    ),
    source: Annotated[
        str | None, typer.Option(help="The service that reported it; needed where two use one id.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> int:
    """Show every time that an event was sent, what became of it, and everything that it counts in.

    Works with the pipeline stopped; with it running, refusals and budget sums are looked at too.

    Exit code: 0 if the event was found, 1 if not.
    """
    import orjson

    from meterproof.deployment import DataFolder
    from meterproof_local.trace import trace_event

    found = asyncio.run(trace_event(DataFolder(data), event_id, source))
    if as_json:
        print(orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2).decode())
        return 0 if found.occurrences else 1
    for number, one in enumerate(found.occurrences, 1):
        print(f"{number}. {one.verdict}" + (f": {one.detail}" if one.detail else ""))
        _show(one)
    if not found.occurrences:
        print(f"No event with the id {event_id!r} was found.")
    for what in found.not_looked_at:
        print(f"Not looked at: {what}")
    return 0 if found.occurrences else 1


def _show(one: "Occurrence") -> None:
    """One line for each place where it can be found; as long as it need be, so that it can be copied."""
    from meterproof_schemas.instant import format_instant_ms

    def row(name: str, value: str) -> None:
        print(f"   {name:<12}{value}")

    batch, event_line = one.batch, one.batch_line
    which = "the whole batch was refused" if event_line is None else f"event {event_line} of it"
    if batch is None:
        row("batch", f"no known key vouches for it; {which}")
    else:
        row("batch", f"{batch.producer}, instance {batch.instance}, sequence {batch.sequence}; {which}")
        row("signed by", ", ".join(key_id[:16] + "…" for key_id in one.key_ids))
    received = "" if one.append_ms is None else f", received {format_instant_ms(one.append_ms)}"
    row("source", f"usage.batches[{one.partition}] offset {one.source_offset}{received}")
    if one.log_offset is not None:
        position = "" if one.position is None else f", position {one.position}"
        row("log", f"{one.origin}, offset {one.log_offset}{position}")
    if one.audit_file is not None:
        row("audit", f"sed -n {one.audit_line}p {shlex.quote(str(one.audit_file))}")
    if one.verdict != "accepted":
        return
    checkpoint = one.checkpoint
    if checkpoint is None:
        row("checkpoint", "none covers it yet")
    else:
        proved = "proved" if one.proved else "NOT proved"
        row("checkpoint", f"size {checkpoint.size}, root {checkpoint.root.hex()[:32]}…: inclusion {proved}")
    if one.clickhouse is None:
        row("ClickHouse", "no row")
    else:
        cells = one.clickhouse
        usage = ", ".join(f"{quantity.normalize():f} {meter}" for meter, quantity in cells["usage"].items())
        row("ClickHouse", f"{cells['agent']} of {cells['customer']}: {usage}")
        row("cost", f"{cells['cost'].normalize():f} {cells['currency']} by price book {cells['price_book']}")
    for effect in one.budgets:
        spend = "sum not looked at" if effect["spend"] is None else f"now {effect['spend']}"
        row(
            "budget",
            f"{effect['budget']}: {effect['scope']} {effect['subject']}, {effect['window']} from {effect['start']}, "
            f"{spend} of {effect['limit']} {effect['currency'] or '+'.join(effect['meters'])}",
        )


def main(argv: list[str]) -> int:
    """Show one event through every stage: batch, verdict, log position, proof, ClickHouse, budgets."""
    from meterproof.kafka.errors import KafkaProblem

    return run_app(app, "meterproof trace", argv, (MeterError, KafkaProblem, OSError))
