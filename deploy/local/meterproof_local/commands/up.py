"""`meterproof up`: the whole pipeline on this machine, until Ctrl-C."""

import asyncio
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meterproof.command_line import run_app
from meterproof.errors import MeterError
from meterproof_local.errors import LocalError
from meterproof_schemas.errors import ContractError

if TYPE_CHECKING:
    from meterproof_local.setup import SetupWish
    from meterproof_local.supervisor import Supervisor

_SHOW_INTERVAL_S = 0.5
_SAY_INTERVAL_S = 10.0

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: meterproof up --data data   ·   then, elsewhere: meterproof replay trace.csv --data data")
def up(
    data: Annotated[Path, typer.Option(help="Folder for everything; made if missing.", file_okay=False)] = Path("data"),
    partitions: Annotated[
        int | None, typer.Option(help="Logs of a new deployment; 4 by default.", min=1, max=10_000)
    ] = None,
    sequencers: Annotated[int, typer.Option(help="Sequencers that share the partitions.", min=1)] = 1,
    budgets: Annotated[Path | None, typer.Option(help="Budget file to use from now on.", dir_okay=False)] = None,
    prices: Annotated[Path | None, typer.Option(help="Price book to publish.", dir_okay=False)] = None,
    name: Annotated[
        str | None, typer.Option(help="Schema-less URL that names the logs' owner, like meter.example.com/local.")
    ] = None,
    deployment: Annotated[str | None, typer.Option(help="The audience that batches must be signed for.")] = None,
) -> int:
    """Run Kafka, the sequencer, the checkpointer, budgets, ClickHouse and the audit log on this machine.

    The first start makes keys, topics, prices and budgets in the data folder; later ones go on where all stopped.
    Each worker writes to logs/<worker>.log there. Ctrl-C or SIGTERM stops workers first and Kafka last.

    Exit code: 0 after Ctrl-C or SIGTERM, 1 if it could not start.
    """
    from meterproof_local.setup import SetupWish

    wish = SetupWish(name=name, deployment=deployment, partitions=partitions, prices=prices, budgets=budgets)
    return asyncio.run(_run(data, wish, sequencers))


async def _run(data: Path, wish: "SetupWish", sequencers: int) -> int:
    from rich.console import Console
    from rich.live import Live

    from meterproof.deployment import DataFolder
    from meterproof_local.download_line import show_download
    from meterproof_local.status_lines import status_lines, status_table
    from meterproof_local.supervisor import Supervisor

    console = Console()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    main_task = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and main_task is not None:
            main_task.cancel()  # the second Ctrl-C: no more patience
        stop.set()

    supervisor = Supervisor(
        DataFolder(data),
        wish,
        sequencers=sequencers,
        say=lambda text: console.print(text, highlight=False),
        on_download=show_download,
    )
    try:
        async with supervisor:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.add_signal_handler(number, on_signal)
            console.print(f"Running in {data}; Ctrl-C stops it. Try:", highlight=False)
            console.print(f"meterproof replay FILE --data {shlex.quote(str(data))}", highlight=False, soft_wrap=True)
            if console.is_terminal:
                with Live(console=console, auto_refresh=False) as live:
                    while not stop.is_set():
                        live.update(status_table(status_lines(supervisor)), refresh=True)
                        await _sleep(stop, _SHOW_INTERVAL_S)
            else:
                await _say_changes(supervisor, stop)
            console.print("Stopping: workers first, Kafka last.", highlight=False)
    except asyncio.CancelledError:
        console.print("Ended at once.", highlight=False)
        return 1
    console.print("Stopped.", highlight=False)
    return 0


async def _say_changes(supervisor: "Supervisor", stop: asyncio.Event) -> None:
    """Without a terminal: a line for each process whose line changed."""
    from meterproof_local.status_lines import status_lines

    said: dict[str, object] = {}
    while not stop.is_set():
        for line in status_lines(supervisor):
            if said.get(line.name) != line:
                said[line.name] = line
                restarts = f", {line.restarts} restarts" if line.restarts else ""
                print(f"{line.name}: {line.state}{restarts}, {line.where}", flush=True)
        await _sleep(stop, _SAY_INTERVAL_S if len(said) > 1 else _SHOW_INTERVAL_S)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def main(argv: list[str]) -> int:
    """Run the whole pipeline on this machine: Kafka, workers, ClickHouse and audit log."""
    from meterproof.kafka.errors import KafkaProblem

    return run_app(app, "meterproof up", argv, (LocalError, MeterError, KafkaProblem, ContractError, OSError))
