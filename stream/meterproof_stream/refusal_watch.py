"""Which producers have every event refused: a wrong key, clock or deployment shows within a minute, by name."""

import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Final

import orjson

from meterproof_schemas.limits import BATCH_LINES_MAX, HEADER_LINE_BYTES_MAX, SIGNATURES_LINE_BYTES_MAX
from meterproof_schemas.reasons import DUPLICATE
from meterproof_stream.judge import Judgement

REFUSED_AFTER_S: Final = 60.0
"""How long every event of a producer must have been refused before it is told."""
KEYS_MAX: Final = 1_000
"""Registered keys remembered at once, and as many others: those can be made up, and make room for none but their own
kind. Room is made by the key that was refused longest ago."""
_NAME_CHARS_MAX: Final = 256
_KEYS_OF_A_BATCH_MAX: Final = 8


@dataclass(slots=True)
class RefusedProducer:
    """A key under which nothing was accepted since `since_s`, and at least one event was refused."""

    key_id: str
    producer: str
    """As the batch that was refused last names itself."""
    reason: str
    """Of the last refusal."""
    events: int
    """Refused since then."""
    since_s: float
    """Monotonic, of the first refusal since the last acceptance."""
    told: bool = False

    def as_json(self, now_s: float) -> dict[str, Any]:
        """For the status."""
        return {
            "key_id": self.key_id,
            "producer": self.producer,
            "reason": self.reason,
            "events": self.events,
            "refused_s": round(now_s - self.since_s, 1),
        }


class RefusalWatch:
    """Follows the judgements of one sequencer, by the ids of the keys that signed.

    A repeat counts as accepted: its event is in the log. The key of a record that is refused before anybody vouched for
    it is the one that it names. A record that names none is nobody's, and only counted. Lives as long as its sequencer;
    knows nothing of what another sequencer, or a former run, accepted.
    """

    def __init__(self, *, after_s: float = REFUSED_AFTER_S, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._after_s = after_s
        self._monotonic_s = monotonic_s
        self._registered: dict[str, RefusedProducer] = {}
        self._unknown: dict[str, RefusedProducer] = {}
        self._cleared: list[RefusedProducer] = []

    def note(self, judgement: Judgement, value: bytes | None, registered: Container[str]) -> None:
        """Take notice of a source record's judgement. Costs a comparison or two while nobody is refused.

        Args:
            judgement: of the record.
            value: of the record.
            registered: ids of the keys that the registry knows.

        """
        accepted = judgement.accepted > 0 or any(verdict == DUPLICATE for _, verdict, _ in judgement.not_accepted)
        if accepted and not self._registered and not self._unknown:
            return
        if not accepted and judgement.reason is None and not judgement.not_accepted:
            return  # a hole
        signed = _signed_by(judgement, value)
        if signed is None:
            return
        producer, key_ids, count = signed
        if accepted:
            for key_id in key_ids:
                refused = self._forget(key_id)
                if refused is not None and refused.told:
                    self._cleared.append(refused)
            return
        reason = judgement.reason.value if judgement.reason is not None else judgement.not_accepted[0][1]
        for key_id in key_ids:
            # Taken out and put back: it is the last one now, and of the kind that the registry says today.
            refused = self._forget(key_id) or RefusedProducer(key_id, producer, reason, 0, self._monotonic_s())
            refused.events += count
            refused.producer, refused.reason = producer, reason
            kind = self._registered if key_id in registered else self._unknown
            if len(kind) >= KEYS_MAX:
                del kind[next(iter(kind))]
            kind[key_id] = refused

    def _forget(self, key_id: str) -> RefusedProducer | None:
        return self._registered.pop(key_id, None) or self._unknown.pop(key_id, None)

    def refused(self) -> list[RefusedProducer]:
        """The producers to tell about now, longest first."""
        now_s = self._monotonic_s()
        known = (*self._registered.values(), *self._unknown.values())
        told = [refused for refused in known if now_s - refused.since_s >= self._after_s]
        return sorted(told, key=lambda refused: refused.since_s)

    def news(self) -> tuple[list[RefusedProducer], list[RefusedProducer]]:
        """What was not told yet: producers that are refused, and such as were, and are accepted again."""
        new = [refused for refused in self.refused() if not refused.told]
        for refused in new:
            refused.told = True
        cleared, self._cleared = self._cleared, []
        return new, cleared

    def as_json(self) -> list[dict[str, Any]]:
        """For the status."""
        now_s = self._monotonic_s()
        return [refused.as_json(now_s) for refused in self.refused()]


def _signed_by(judgement: Judgement, value: bytes | None) -> tuple[str, list[str], int] | None:
    """Producer, key ids and number of events of a batch, as it claims; None where it claims nothing that can be read.

    Looks at nothing but what it needs, since a record that is refused may be anything.
    """
    if judgement.carried is not None:
        header_line, signatures_line = judgement.carried
    else:
        lines = (value or b"")[: HEADER_LINE_BYTES_MAX + SIGNATURES_LINE_BYTES_MAX + 2].split(b"\n", 2)
        if len(lines) < 3:
            return None
        header_line, signatures_line = lines[0], lines[1]
    try:
        header, signatures = orjson.loads(header_line), orjson.loads(signatures_line)
        producer, count = header["producer"], header["count"]
        key_ids = [one["key_id"] for one in signatures["signatures"][:_KEYS_OF_A_BATCH_MAX]]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    named = [name for name in (producer, *key_ids) if isinstance(name, str) and len(name) <= _NAME_CHARS_MAX]
    if len(named) != len(key_ids) + 1 or not key_ids or not isinstance(count, int):
        return None
    return producer, list(dict.fromkeys(key_ids)), min(max(1, count), BATCH_LINES_MAX)
