"""`meterproof keys`: look at a key registry."""

import time
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from meterproof.command_line import run_app
from meterproof_schemas.errors import ContractError
from meterproof_schemas.keys import KeyEntry, load_registry

app = typer.Typer(no_args_is_help=True, help="Look at a key registry.")

_STATES = {"valid": "valid", "revoked": "revoked", "outside_validity": "outside its validity"}


@app.callback()
def _keys() -> None:
    """Look at a key registry."""


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
    """Look at a key registry."""
    return run_app(app, "meterproof keys", argv, (ContractError, OSError))
