"""What was sent, written down by the sender: the figures that every stage is compared with.

Deliberately none of the pipeline's own code: JSON, dicts and decimals, so that a fault there cannot hide itself here.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

_WINDOW_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}
_US_PER_S = 1_000_000

Window = tuple[str, str, str, int]
"""(scope, who, kind of window, start in microseconds since 1970, UTC)."""
AlertName = tuple[str, str, int, str]
"""(budget, who, start in microseconds, threshold)."""


@dataclass(slots=True)
class Ledger:
    """Everything that was sent, and what must become of it. Lives as long as one demo."""

    prices: Mapping[tuple[str, str, str], Decimal]
    """Of one unit, by (provider, model, meter)."""
    budgets: list[dict[str, Any]]
    sent: int = 0
    """Events in all that was sent, however often; a record that is no batch at all counts one."""
    unique: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """What must be accepted: the SHA-256 of the line, by source and id; lines themselves would fill the memory."""
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """Events that must be refused, by reason; those of a batch that is refused as a whole count one by one."""
    events: Counter[str] = field(default_factory=Counter)
    """Accepted events by agent."""
    units: defaultdict[tuple[str, str], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """Accepted units by agent and meter."""
    spend: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """By agent."""
    windows: defaultdict[Window, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """Spend by agent or customer and window, of the kinds that the budgets have."""

    @classmethod
    def open(cls, price_book: Path, budgets: Path) -> "Ledger":
        """An empty ledger by these files. Understands prices by exact provider and model, without effective dates."""
        prices = {
            (price["provider"], price["model"], price["meter"]): Decimal(price["amount"]) / int(price.get("per", "1"))
            for price in json.loads(price_book.read_bytes())["prices"]
        }
        return cls(prices, json.loads(budgets.read_bytes())["budgets"])

    def good(self, line: bytes) -> None:
        """An event that must be accepted, or that is the same as one before."""
        self.sent += 1
        event = json.loads(line)
        identity = (event["source"], event["id"])
        digest = digest_of(line)
        if identity in self.unique:
            if self.unique[identity] != digest:
                message = f"{identity} was sent with other bytes before: that is a refusal"
                raise ValueError(message)
            self.duplicates += 1
            return
        self.unique[identity] = digest
        agent, data = event["subject"], event["data"]
        cost = Decimal(0)
        for meter, quantity in data["usage"].items():
            self.units[agent, meter] += Decimal(quantity)
            price = self.prices.get((data.get("provider", ""), data.get("model", ""), meter), Decimal(0))
            cost += Decimal(quantity) * price
        self.events[agent] += 1
        self.spend[agent] += cost
        who = {"agent": agent, "customer": data.get("customer", "")}
        for scope, kind in {(budget["scope"], budget["window"]) for budget in self.budgets}:
            self.windows[scope, who[scope], kind, _window_start_us(event["time"], kind)] += cost

    def bad(self, reason: str, events: int = 1) -> None:
        """Events that must be refused."""
        self.sent += events
        self.rejected[reason] += events

    def alerts(self) -> set[AlertName]:
        """What must be alerted: every threshold that the spend of an agent or customer reached in a window."""
        return set(self._alerts())

    def _alerts(self) -> Iterator[AlertName]:
        for budget in self.budgets:
            subject = budget["subject"]
            for (scope, who, kind, start_us), spend in self.windows.items():
                matches = who == subject or (subject[-1] == "*" and who.startswith(subject[:-1]))
                if (scope, kind) != (budget["scope"], budget["window"]) or not matches:
                    continue
                for threshold in budget["thresholds"]:
                    if spend >= Decimal(budget["limit"]) * Decimal(threshold) / 100:
                        yield budget["name"], who, start_us, threshold


def digest_of(line: bytes) -> bytes:
    """SHA-256 of an event line: what stands for it in every count."""
    return hashlib.sha256(line).digest()


def _window_start_us(time: str, kind: str) -> int:
    instant = datetime.fromisoformat(time).astimezone(UTC)
    if kind == "month":
        start_s = int(instant.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp())
    else:
        length_s = _WINDOW_SECONDS[kind]
        start_s = int(instant.replace(microsecond=0).timestamp()) // length_s * length_s
    return start_s * _US_PER_S
