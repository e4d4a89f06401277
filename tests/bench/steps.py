"""Where the sequencer's own time goes: each step of judging and building a record, timed alone over the same load.

Method: the load is run through `judge` and `append_record` once, which gives the totals and every step's true inputs;
then each step runs over all its inputs in a loop of its own. So no timer stands inside what is timed, and the steps do
not add up by themselves: "rest" is the total less the steps (loops, objects, and what the caches lose between steps).
The best of several passes counts, since everything that disturbs a pass makes it slower. The garbage collector is off:
it would go through what the bench itself keeps.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meterproof_proofs.frontier import Frontier
from meterproof_proofs.tree_hashing import text_tree
from meterproof_schemas.batch import decode_batch
from meterproof_schemas.ed25519_checks import QuickChecks
from meterproof_schemas.fold import LogState
from meterproof_schemas.keys import parse_registry
from meterproof_schemas.limits import (
    BATCH_BYTES_MAX,
    BATCH_LINES_MAX,
    FUTURE_TOLERANCE_MS,
    HORIZON_MS_DEFAULT,
    LINE_BYTES_MAX,
)
from meterproof_schemas.log_record import (
    Limits,
    encode_record_header,
    encode_record_text,
    make_genesis,
    record_digest,
)
from meterproof_schemas.plain_lines import read_plain_lines
from meterproof_schemas.price_book import DEFAULT_METERS
from meterproof_stream.judge import judge
from meterproof_stream.record_builder import InForce, append_record
from tests.bench.load import DEPLOYMENT, PARTITIONS, PartitionLoad, SignedSeries, registry

_TOPIC: Final = "usage.batches"
_PARTITION: Final = 0
_JUDGING: Final = (
    *("structure and header", "signature", "digests, leaf hashes, batch root"),
    *("parse, validate, identity", "dedupe lookup"),
)
"""Steps of `judge`."""
_BUILDING: Final = ("log frontier and root", "record header and lines", "digest of the record", "index")
"""Steps of `append_record`."""


@dataclass(frozen=True, slots=True)
class StepTable:
    """Microseconds per event, by batch size and step."""

    us_per_event: dict[int, dict[str, float]]
    totals: tuple[str, ...] = ("judge", "append_record", "whole class")
    """Steps that contain others."""

    @property
    def batches(self) -> list[int]:
        """Batch sizes, ascending."""
        return sorted(self.us_per_event)

    @property
    def names(self) -> list[str]:
        """Steps, in the order of the work."""
        return list(self.us_per_event[self.batches[0]])

    def as_json(self) -> dict[str, dict[str, float]]:
        """For programs."""
        return {
            str(batch): {name: round(us, 3) for name, us in steps.items()} for batch, steps in self.us_per_event.items()
        }


def measure_steps(events: Mapping[int, int], *, passes: int) -> StepTable:
    """Time every step: how many events at which batch size, and how often."""
    return StepTable({batch: Steps(batch, count).measure(passes) for batch, count in events.items()})


class Steps:
    """One load at one batch size, and every step over it."""

    def __init__(self, batch: int, events: int) -> None:
        self.now_ms = time.time_ns() // 1_000_000
        load = PartitionLoad(_PARTITION, now_ms=self.now_ms)
        series = SignedSeries(_PARTITION, _TOPIC, now_ms=self.now_ms)
        self.values = [series.seal(load.lines(batch)) for _ in range(max(1, events // batch))]
        self._events = batch * len(self.values)
        self.registry = parse_registry(registry(), check=QuickChecks())
        self.meters = frozenset(meter.name for meter in DEFAULT_METERS)
        self.in_force = InForce(self.registry.digest, 0, "00" * 16, 1)
        limits = Limits(
            line_bytes_max=LINE_BYTES_MAX,
            batch_bytes_max=BATCH_BYTES_MAX,
            batch_lines_max=BATCH_LINES_MAX,
            future_tolerance_ms=FUTURE_TOLERANCE_MS,
            horizon_ms=HORIZON_MS_DEFAULT,
            corrections=False,
        )
        self.genesis = make_genesis(
            name="meter.example.com/bench",
            epoch="0f" * 16,
            deployment=DEPLOYMENT,
            source_topic=_TOPIC,
            partition=_PARTITION,
            partitions=PARTITIONS,
            limits=limits,
            created_ms=self.now_ms,
        )

    def measure(self, passes: int) -> dict[str, float]:
        """Microseconds per event of each step, best of `passes`."""
        best: dict[str, float] = {}
        gc.disable()
        try:
            for _ in range(passes):
                for name, us in (*self._whole().items(), *self._single().items()):
                    best[name] = min(us, best.get(name, us))
        finally:
            gc.enable()
        best["judge: rest"] = best["judge"] - sum(best[name] for name in _JUDGING)
        best["append_record: rest"] = best["append_record"] - sum(best[name] for name in _BUILDING)
        best["whole class"] = best["judge"] + best["append_record"]
        order = (*_JUDGING, "judge: rest", "judge", *_BUILDING, "append_record: rest", "append_record", "whole class")
        return {name: best[name] for name in order}

    def _whole(self) -> dict[str, float]:
        """The class as it is used; also keeps what each step gets."""
        state = LogState()
        state.offer(0, self.genesis)
        judge_ns = append_ns = 0
        self._judgements: list[Any] = []
        self._built: list[Any] = []
        clock = time.thread_time_ns
        for offset, value in enumerate(self.values):
            began = clock()
            judgement = judge(
                value,
                partition=_PARTITION,
                offset=offset,
                append_ms=self.now_ms,
                state=state,
                registry=self.registry,
                meters=self.meters,
            )
            judged = clock()
            built = append_record(state, judgement, log_offset=offset + 1, source_offset=offset, in_force=self.in_force)
            append_ns += clock() - judged
            judge_ns += judged - began
            self._judgements.append(judgement)
            self._built.append(built)
        return {"judge": self._us(judge_ns), "append_record": self._us(append_ns)}

    def _single(self) -> dict[str, float]:
        values, built, judgements, registry_ = self.values, self._built, self._judgements, self.registry
        batches = [decode_batch(value) for value in values]
        index = LogState().index
        return {
            "structure and header": self._time(lambda: [decode_batch(value) for value in values]),
            "signature": self._time(
                lambda: [
                    registry_.authorities(batch.header_line, batch.signatures, batch.header.producer, self.now_ms)
                    for batch in batches
                ]
            ),
            "digests, leaf hashes, batch root": self._time(
                lambda: [text_tree(batch.value, batch.start) for batch in batches]
            ),
            "parse, validate, identity": self._time(
                lambda: [read_plain_lines(batch.value, batch.start) for batch in batches]
            ),
            "dedupe lookup": self._time(lambda: [index.repeats(each.identities, each.entries) for each in judgements]),
            "log frontier and root": self._time(lambda: _grow(judgements)),
            "record header and lines": self._time(
                lambda: [
                    encode_record_text(encode_record_header(one.header), judgement.carried, judgement.text)
                    for one, judgement in zip(built, judgements, strict=True)
                ]
            ),
            "digest of the record": self._time(lambda: [record_digest(one.value) for one in built]),
            "index": self._time(lambda: _remember(judgements)),
        }

    def _time(self, work: Callable[[], object]) -> float:
        began = time.thread_time_ns()
        work()
        return self._us(time.thread_time_ns() - began)

    def _us(self, ns: int) -> float:
        return ns / 1_000 / self._events


def _grow(judgements: list[Any]) -> None:
    """What `append_record` does with the log's frontier."""
    frontier = Frontier()
    for judgement in judgements:
        frontier = frontier.copy()
        frontier.extend(judgement.leaves)
        frontier.root().hex()
        b"".join(frontier.hashes).hex()


def _remember(judgements: list[Any]) -> None:
    """What `append_record` does with the dedupe index."""
    state = LogState()
    for judgement in judgements:
        state.index.add(judgement.identities, judgement.entries, judgement.clock_ms)
