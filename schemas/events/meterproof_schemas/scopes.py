"""Scopes: whose spend a budget limits, and in which logs the events of one lie."""

from typing import Annotated, Final

from pydantic import StringConstraints

from meterproof_schemas.event import WhoView
from meterproof_schemas.partitioner import partition_of

TAG_SCOPE: Final = "tag:"
Scope = Annotated[
    str,
    StringConstraints(
        strict=True, pattern=r"^(agent|customer|service|user|session|team|all|tag:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})$"
    ),
]
"""Whose spend: `agent` (subject), `customer`, `service` (source), `user`, `session`, `team` (the tag of that name),
`tag:<name>` (any other tag), `all` (everything). An event that names none of a scope does not count in it.

An agent's events lie in one log; those of every other scope may lie in all of them.
"""
ALL: Final = "*"
"""The one subject of the scope `all`."""


def subject_in(scope: str, event: WhoView) -> str | None:
    """Who an event counts for in a scope; None for nobody."""
    data = event.data
    match scope:
        case "agent":
            return event.subject
        case "customer":
            return data.customer
        case "service":
            return event.source
        case "user":
            return data.user
        case "session":
            return data.session
        case "all":
            return ALL
        case "team":
            return (data.tags or {}).get("team")
        case _:
            return (data.tags or {}).get(scope.removeprefix(TAG_SCOPE))


def lies_in_one_log(scope: str) -> bool:
    """Whether all events of each subject of a scope lie in one log."""
    return scope == "agent"


def home_partition(scope: str, subject: str, partitions: int) -> int:
    """The partition of `usage.alerts` that a subject's alerts stand in, and whose owner raises them."""
    return partition_of(subject if lies_in_one_log(scope) else f"{scope}:{subject}", partitions)
