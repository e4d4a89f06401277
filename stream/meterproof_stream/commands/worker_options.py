"""The options that every stream worker's `run` takes, stated once."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

from meterproof.command_options import Bootstrap, Data, Prefix
from meterproof_stream.runtime import Runtime

Instance = Annotated[str | None, typer.Option(help="Stable unique name of this worker; default: host name.")]
LeaveOnStop = Annotated[
    bool | None,
    typer.Option(
        "--leave/--stay",
        help="When stopped by SIGTERM, give up the place in the group, because this worker will not come back; "
        "default: stay, and find it again after a restart.",
        show_default=False,
    ),
]
RuntimeChoice = Annotated[
    Runtime | None, typer.Option("--runtime", help="What delivers the records; default: faust.", show_default=False)
]

_Own = ParamSpec("_Own")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Where a worker runs, and how, as `run_worker` is told; what is None is left to `WorkerSettings`."""

    data: Data = Path("data")
    bootstrap: Bootstrap = None
    topic_prefix: Prefix = None
    instance: Instance = None
    runtime: RuntimeChoice = None
    leave_on_stop: LeaveOnStop = None


def with_worker_options(run: Callable[Concatenate[WorkerOptions, _Own], int]) -> Callable[..., int]:
    """Make a command of `run`: the worker's options stand before its own, and it is handed them together, first."""
    hints = get_type_hints(WorkerOptions, include_extras=True)
    shared = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
        for one in fields(WorkerOptions)
    ]
    _, *own = inspect.signature(run, eval_str=True).parameters.values()

    @functools.wraps(run)
    def command(**given: Any) -> int:  # noqa: ANN401 - each of its own type
        options = WorkerOptions(**{one.name: given.pop(one.name) for one in shared})
        return run(options, **given)  # type: ignore[call-arg]  # what is left of them are the own ones

    parameters = [*shared, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command
