"""What every scope has spent, read from `usage.budget-state` alone: for people, and for whoever enforces."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from meterproof.kafka.geneses import read_genesis
from meterproof.kafka.settings import KafkaSettings
from meterproof.kafka.topic_reader import TopicReader
from meterproof_schemas.budget import (
    Alert,
    Budget,
    Marker,
    PartialSum,
    SumKey,
    decode_alert,
    decode_budget_state,
    definition_of,
    is_marker_key,
    kinds_of,
    parse_state_key,
    read_sum_head,
)
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.quantity import EXACT, plain
from meterproof_schemas.topics import Topic
from meterproof_schemas.window import window_end_us

_US_PER_MS = 1000


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One budget of one subject in one window."""

    budget: Budget
    key: SumKey
    used: Decimal
    """In the budget's currency, or in units of its meters; over all logs."""
    events: int
    alerts: tuple[str, ...]
    """Thresholds that were alerted, in percent."""
    final: bool
    """Whether every log's ingest clock is past the window's end by the horizon: nothing can change it any more."""
    partial: bool
    """Whether some of its events may lie before the position from which a trimmed log was counted."""
    logs: Mapping[str, int]
    """By log that has something of it: the position below which every event is in it."""

    @property
    def percent(self) -> Decimal:
        """Of the limit, cut to two places."""
        share = self.used * 10_000 / Decimal(self.budget.limit)
        return Decimal(int(share)).scaleb(-2)

    def as_json(self) -> dict[str, object]:
        """For programs; exact amounts as strings."""
        return {
            "budget": self.budget.name,
            **self.key.as_json(),
            "used": plain(self.used),
            "limit": self.budget.limit,
            "currency": self.budget.currency,
            "meters": self.budget.meters,
            "percent": plain(self.percent),
            "events": self.events,
            "alerts": self.alerts,
            "final": self.final,
            "partial": self.partial,
            "logs": dict(self.logs),
        }


async def read_budget_lines(kafka: KafkaSettings, budgets: Sequence[Budget]) -> list[BudgetLine]:
    """Every budget of every subject and window that has spent anything, as the topics say now.

    Raises:
        KafkaProblem: a topic cannot be read.
    """
    limits = (await read_genesis(kafka, 0)).limits
    best: dict[bytes, tuple[int, bytes]] = {}
    clocks: dict[int, int] = {}
    since_ms: dict[int, int] = {}
    definition = definition_of(budgets)
    async with TopicReader(kafka, kafka.topic(Topic.BUDGET_STATE)) as reader:
        clocks = dict.fromkeys(range(reader.partitions), 0)
        async for partition, record in reader.read_until(await reader.bounds()):
            key, value = record.key or b"", record.value or b""
            if is_marker_key(key):
                marker = _decoded(value)
                if isinstance(marker, Marker) and marker.definition == definition:
                    clocks[partition] = max(clocks[partition], marker.clock_ms or 0)
                    if marker.since is not None:
                        since_ms[partition] = marker.since.clock_ms
                continue
            head = read_sum_head(value)
            if head is not None and head.definition == definition and head.position >= best.get(key, (-1,))[0]:
                best[key] = head.position, value
    parts: dict[SumKey, list[PartialSum]] = {}
    for key, (_, value) in best.items():
        stored = _decoded(value)
        if isinstance(stored, PartialSum) and parse_state_key(key) is not None:
            parts.setdefault(stored.key, []).append(stored)
    final_us = min(clocks.values()) * _US_PER_MS - limits.horizon_ms * _US_PER_MS
    # An event that came before that moment can lie in a window that begins a little later: clocks differ.
    whole_ms = max((at_ms + limits.future_tolerance_ms for at_ms in since_ms.values()), default=-1)
    return list(_lines(budgets, parts, await _alerts(kafka), final_us, whole_ms * _US_PER_MS))


def _lines(
    budgets: Sequence[Budget],
    parts: Mapping[SumKey, list[PartialSum]],
    alerts: Mapping[tuple[str, SumKey], list[str]],
    final_us: int,
    whole_us: int,
) -> Iterable[BudgetLine]:
    kinds = kinds_of(budgets)
    for key in sorted(parts, key=lambda key: (key.start_us, key.scope, key.subject, key.window, key.zone)):
        kind = kinds.get(key.kind)
        spend, usage = Decimal(0), dict[str, Decimal]()
        for part in parts[key]:
            spend = EXACT.add(spend, Decimal(part.spend))
            for meter, quantity in part.exact_usage().items():
                usage[meter] = EXACT.add(usage.get(meter, Decimal(0)), quantity)
        for watch in kind.concerning(key.subject) if kind is not None else ():
            raised = alerts.get((watch.budget.name, key), [])
            yield BudgetLine(
                watch.budget,
                key,
                watch.budget.used(spend, usage),
                sum(part.events for part in parts[key]),
                tuple(threshold for threshold, _ in watch.thresholds if threshold in raised),
                window_end_us(key.start_us, key.window, kind.zone) <= final_us if kind is not None else False,
                key.start_us <= whole_us,
                {part.log: part.position for part in parts[key]},
            )


async def _alerts(kafka: KafkaSettings) -> dict[tuple[str, SumKey], list[str]]:
    """Thresholds alerted, by budget and window."""
    found: dict[tuple[str, SumKey], list[str]] = {}
    async with TopicReader(kafka, kafka.topic(Topic.ALERTS)) as reader:
        async for _, record in reader.read_until(await reader.bounds()):
            try:
                alert: Alert = decode_alert(record.value)
            except InvalidRecord:
                continue
            found.setdefault((alert.budget, alert.sum_key), []).append(alert.threshold)
    return found


def _decoded(value: bytes) -> PartialSum | Marker | None:
    try:
        return decode_budget_state(value)
    except InvalidRecord:
        return None
