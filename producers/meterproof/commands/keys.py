"""`meterproof keys`: look at a key registry, replace the log key."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from meterproof.command_line import run_app
from meterproof.command_options import Bootstrap, Data, Prefix
from meterproof.deployment import DataFolder
from meterproof.errors import MeterError
from meterproof.kafka.errors import KafkaProblem
from meterproof_schemas.errors import ContractError
from meterproof_schemas.keys import KeyEntry, load_registry

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look at a key registry, replace the log key.")

_STATES = {"valid": "valid", "revoked": "revoked", "outside_validity": "outside its validity"}


@app.callback()
def _keys() -> None:
    """Look at a key registry, replace the log key."""


rotate = typer.Typer(no_args_is_help=True, help="Replace the log key: begin, restart the checkpointer, finish.")
app.add_typer(rotate, name="rotate")


@rotate.command("begin", epilog="Example: meterproof keys rotate begin --data data")
def rotate_begin(data: Data = Path("data")) -> None:
    """Make the next log key; from the checkpointer's next start on, both sign."""
    from meterproof.key_rotation import begin

    folder = DataFolder(data)
    begin(folder)
    typer.echo(
        f"{folder.next_log_key}\nNow start the checkpointer again: it signs with both keys. Give {folder.vkeys} to all "
        "who verify, start the audit worker again, then `meterproof keys rotate finish`."
    )


@rotate.command("finish", epilog="Example: meterproof keys rotate finish --data data")
def rotate_finish(
    data: Data = Path("data"),
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> None:
    """Let the next log key be the only one, if it has signed every log's largest checkpoint.

    The old key's secret is overwritten; its public half is kept in keys/log.retired.vkey.
    """
    from meterproof.key_rotation import finish

    folder = DataFolder(data)
    asyncio.run(finish(folder, folder.kafka_settings(bootstrap, topic_prefix)))
    typer.echo(
        f"{folder.log_key}\nNow start the checkpointer again: it signs with this key alone. Give {folder.vkeys} to all "
        "who verify."
    )


@app.command("list", epilog="Example: meterproof keys list data/keys/registry.json --json")
def list_keys(
    registry: Annotated[Path, typer.Argument(help="Key registry file.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")] = False,
) -> None:
    """List the keys of a registry and whether each is valid now."""
    now_ms = time.time_ns() // 1_000_000
    entries = load_registry(registry).entries.values()
    if as_json:
        typer.echo(orjson.dumps([public_fields(entry, now_ms) for entry in entries]))
        return
    table = Table("key", "producer", "algorithm", "sources", "agents", "customers", "now")
    for entry in entries:
        table.add_row(
            entry.key_id[:16] + "…",
            entry.producer,
            entry.algorithm + (" (repudiable)" if entry.algorithm == "hmac-sha256" else ""),
            ", ".join(entry.sources),
            ", ".join(entry.agents),
            ", ".join(entry.customers),
            _STATES[entry.state_at(now_ms)],
        )
    Console().print(table)


def public_fields(entry: KeyEntry, now_ms: int) -> dict[str, object]:
    """What may be shown of an entry, with its state at `now_ms`."""
    fields = entry.model_dump(exclude_none=True, exclude={"secret_file"})
    return fields | {"state": entry.state_at(now_ms), "repudiable": entry.algorithm == "hmac-sha256"}


def main(argv: list[str]) -> int:
    """Look at a key registry, replace the log key."""
    return run_app(app, "meterproof keys", argv, (ContractError, KafkaProblem, MeterError, OSError))
