"""Errors of the contract.

ContractError
├── InvalidEvent      one line is not acceptable (reason, detail)
├── InvalidBatch      a whole batch is not acceptable (reason, detail)
├── InvalidRecord     bytes of our own topics that cannot be decoded
├── InvalidRegistry   a key registry, price book or budget file with a fault
└── StageStopped      a stage must not go on (stop reason, what to do)
"""

from typing import TYPE_CHECKING

from meterproof_schemas.reasons import Reason, StopReason

if TYPE_CHECKING:
    from pydantic import ValidationError


class ContractError(Exception):
    """Root of all errors of the contract."""


class InvalidEvent(ContractError):
    """One event line is refused: `reason` from the closed list, `detail` names the field and the fault."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class InvalidBatch(ContractError):
    """A whole batch is refused: `reason` from the closed list, `detail` names the fault."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class InvalidRecord(ContractError):
    """Bytes from one of our own topics are not a record of this version."""


class InvalidRegistry(ContractError):
    """A key registry, price book or budget file is faulty; the message names the entry and the fault."""


class StageStopped(ContractError):
    """A stage stopped because going on could lose, double or fork: `stop_reason`, and in the text what to do."""

    def __init__(self, stop_reason: StopReason, detail: str) -> None:
        super().__init__(f"{stop_reason}: {detail}")
        self.stop_reason = stop_reason
        self.detail = detail


def first_fault(error: "ValidationError") -> str:
    """The first field at fault and why; quotes no values, which may be secrets."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:64] for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])
