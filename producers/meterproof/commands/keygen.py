"""`meterproof keygen`: make the key of a producer or of a deployment's log."""

from pathlib import Path
from typing import Annotated

import typer

from meterproof.command_line import run_app
from meterproof.durable_file import replace_durably
from meterproof.errors import MeterError
from meterproof.keys import ProducerKey
from meterproof.log_key import LogKey
from meterproof_schemas.errors import ContractError
from meterproof_schemas.keys import EMPTY_REGISTRY, encode_registry, load_registry

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Make a key. Secret halves are written with mode 600 and never printed.",
)


@app.command(
    epilog="Example: meterproof keygen producer gateway --out gateway.key --registry registry.json "
    "--source gateway --agent '*' --customer acme"
)
def producer(
    name: Annotated[str, typer.Argument(help="The producer's name, as batch headers state it.")],
    out: Annotated[Path, typer.Option(help="Where the secret key goes; never overwritten.")],
    registry: Annotated[Path, typer.Option(help="Key registry file to add the public key to; made if missing.")],
    source: Annotated[list[str], typer.Option(help="A source it may report for: a name, a prefix*, or *.")],
    agent: Annotated[list[str], typer.Option(help="An agent it may report for.")],
    customer: Annotated[list[str], typer.Option(help="A customer it may report for.")],
) -> None:
    """Make a producer's Ed25519 key and list its public half in the registry."""
    entries = list((load_registry(registry) if registry.exists() else EMPTY_REGISTRY).entries.values())
    key = ProducerKey.generate()
    # The key first: a registry entry whose key was never written would be a key nobody holds.
    key.save(out)
    entries.append(key.entry(name, sources=tuple(source), agents=tuple(agent), customers=tuple(customer)))
    replace_durably(registry, encode_registry(entries))
    typer.echo(f"{key.key_id}  {name}  {out}")


@app.command(epilog="Example: meterproof keygen log --out keys/log.key")
def log(out: Annotated[Path, typer.Option(help="Where the secret key goes; never overwritten.")]) -> None:
    """Make the key that signs a deployment's checkpoints."""
    LogKey.generate().save(out)
    typer.echo(f"{out}")


def main(argv: list[str]) -> int:
    """Make the key of a producer or of a deployment's log."""
    return run_app(app, "meterproof keygen", argv, (MeterError, ContractError, OSError))
