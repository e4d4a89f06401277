"""What a runtime can run: the sequencer, and the stages behind the log."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol


class Engine(Protocol):
    """What a driver can run. Any exception ends the process before anything else is acknowledged."""

    async def start(self) -> None:
        """Connect; called once, first."""

    async def stop(self) -> None:
        """Take nothing more, wait for what is on its way, disconnect."""

    async def take_over(self, partitions: Iterable[int], generation: int) -> None:
        """Hold exactly these partitions from now on; may take as long as it needs."""

    async def revoke(self, partitions: Iterable[int]) -> None:
        """These partitions may belong to another from now on."""

    def next_offsets(self) -> dict[int, int]:
        """The offset that is due, by partition held."""

    async def feed(
        self, partition: int, offset: int, value: bytes | None, append_ms: int, acknowledge: Callable[[], object]
    ) -> None:
        """Take one record; it may repeat, or come after a gap."""

    def waits_for(self) -> str | None:
        """What outside of this process must answer before more is taken, in words; None if nothing is waited for."""

    def status(self) -> dict[str, Any]:
        """What an operator wants to see, ready for JSON; `partitions` by number as text."""
