"""The verdict on one source record: a pure function of its bytes, the log before it, and the registry in force."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from meterproof_proofs.tree import HASH_BYTES
from meterproof_proofs.tree_hashing import hashes_in
from meterproof_schemas.batch import Batch, BatchHeader
from meterproof_schemas.correction import claim_of
from meterproof_schemas.effect import Effect
from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import identity_of
from meterproof_schemas.fast_event import read_events
from meterproof_schemas.fold import LogState
from meterproof_schemas.identity_table import ENTRY_BYTES, IDENTITY_BYTES
from meterproof_schemas.keys import KeyEntry, KeyRegistry
from meterproof_schemas.log_record import Genesis, Kind, NotAccepted, StatedEffect
from meterproof_schemas.partitioner import partition_of
from meterproof_schemas.plain_lines import speaker_of
from meterproof_schemas.reasons import DUPLICATE, Reason
from meterproof_schemas.rejection import Rejection, make_rejection
from meterproof_stream.correction_verdict import NO_BOOKS, Books, fault_of_correction, judged_effect
from meterproof_stream.opened_record import Fault, OpenedRecord, SourceRecord, open_records

_US_PER_MS: Final = 1_000
_NONE: Final = bytes(IDENTITY_BYTES)
"""Identity of a line that is no event: no event is known that has it."""
_SPEAKERS_MAX: Final = 65_536
"""Speakers remembered for one set of keys."""
_Speaker = str
"""Source, agent and customer of a line, as `speaker_of` makes one text of them."""


@dataclass(slots=True)
class _Place:
    """Where and when a source record stands."""

    partition: int
    offset: int
    append_ms: int
    clock_ms: int


@dataclass(slots=True)
class Judgement:
    """What becomes of one source record (or of a run of missing ones): all that its log record will say.

    `text` and `leaves` belong to the accepted events, in order, one each, one behind the other; so do `identities` and
    `entries`, behind which stands what the corrections among them claim.
    """

    kind: Kind
    source_digest: str | None
    """SHA-256 of the source record's value; None where there was none to read."""
    append_ms: int
    clock_ms: int
    """Ingest clock with this record."""
    reason: Reason | None = None
    """Why the whole record was refused."""
    not_accepted: list[NotAccepted] = field(default_factory=list)
    carried: tuple[bytes, bytes] | None = None
    """Header and signatures line, if a key of the registry vouched for the batch."""
    batch: BatchHeader | None = None
    """The header in `carried`."""
    text: bytes = b""
    """Their lines, each ended by LF."""
    entries: bytes = b""
    leaves: bytes = b""
    identities: bytes = b""
    rejections: list[Rejection] = field(default_factory=list)
    corrections: list[StatedEffect] = field(default_factory=list)
    """What the accepted corrections do."""

    @property
    def accepted(self) -> int:
        """How many events are accepted."""
        return len(self.leaves) // HASH_BYTES

    @property
    def lines(self) -> list[bytes]:
        """The lines of `text`, without their LF; cut anew each time."""
        return self.text.split(b"\n")[:-1]


_Verdicts = tuple[list[NotAccepted], bytes, bytes, bytes, bytes, list[Rejection], list[StatedEffect]]
"""What becomes of the lines of a batch: `not_accepted` to `corrections` of a `Judgement`, in order."""


class _Speakers:
    """What was found out about speakers under one set of keys of one registry, for one partition."""

    def __init__(self, partition: int, partitions: int) -> None:
        self.allowed: set[_Speaker] = set()
        """Those that may report here."""
        self._partition = partition
        self._partitions = partitions
        self._faults: dict[_Speaker, Fault] = {}

    def fault_of(self, speaker: _Speaker, authorities: Sequence[KeyEntry]) -> Fault | None:
        """Why a line of this source, agent and customer does not belong here; a function of the arguments alone."""
        if speaker in self.allowed:
            return None
        fault = self._faults.get(speaker)
        if fault is not None:
            return fault
        fault = self._found(speaker, authorities)
        if len(self.allowed) + len(self._faults) < _SPEAKERS_MAX:
            if fault is None:
                self.allowed.add(speaker)
            else:
                self._faults[speaker] = fault
        return fault

    def _found(self, speaker: _Speaker, authorities: Sequence[KeyEntry]) -> Fault | None:
        source, agent, customer = speaker.split("\0")
        if partition_of(agent, self._partitions) != self._partition:
            return Reason.WRONG_PARTITION, "subject: this agent belongs to another partition"
        fault: str | None = None
        for entry in authorities:
            fault = entry.speaks_for(source, agent, customer)
            if fault is None:
                return None
        return Reason.KEY_NOT_ALLOWED, f"{fault}: the key may not speak for it"


@lru_cache(maxsize=16)
def _speakers(registry: str, key_ids: tuple[str, ...], partition: int, partitions: int) -> _Speakers:
    """The memory for these keys of this registry, which name it and say nothing about what is in it."""
    del registry, key_ids
    return _Speakers(partition, partitions)


def judge(
    value: bytes | None,
    *,
    partition: int,
    offset: int,
    append_ms: int,
    state: LogState,
    registry: KeyRegistry,
    meters: AbstractSet[str],
    books: Books = NO_BOOKS,
) -> Judgement:
    """Judge one source record on top of `state`, which is not changed. Refuses by recording, never by raising.

    The order of the steps is part of the contract: the first fault found is the reason recorded.

    1. something to read; size and structure
    2. audience, topic, partition
    3. signatures, and a key that speaks for the producer
    4. the signed root over the lines
    5. the producer's series
    6. each line: see `_verdicts`

    Args:
        value: the record's bytes.
        partition: of the source topic and of the log.
        offset: on the source topic.
        append_ms: the broker's append time.
        state: the fold of the log up to the record before; it holds the genesis.
        registry: who may report what.
        meters: names that `data.usage` may have.
        books: all price books that were published, by version.

    """
    (opened,) = open_records([SourceRecord(value, append_ms)], genesis_of(state), registry)  # 1-3, and the root of 4
    return judge_opened(
        opened, partition=partition, offset=offset, state=state, registry=registry, meters=meters, books=books
    )


def judge_opened(
    opened: OpenedRecord,
    *,
    partition: int,
    offset: int,
    state: LogState,
    registry: KeyRegistry,
    meters: AbstractSet[str],
    books: Books = NO_BOOKS,
) -> Judgement:
    """`judge` for a record that was opened with the same registry and the genesis of the same log."""
    value, append_ms, batch = opened.value, opened.append_ms, opened.batch
    clock_ms = max(state.clock_ms, append_ms)
    if opened.fault is not None or value is None or batch is None:
        reason, detail = opened.fault or (Reason.UNREADABLE_RECORD, "")
        place = _Place(partition, offset, append_ms, clock_ms)
        return _refused("batch" if value else "unreadable", value, place, reason, detail)
    header = batch.header
    fault: Fault | None = None
    if not opened.root_holds:  # 4
        fault = Reason.BAD_ROOT, "the signed root is not the root over the lines that came"
    elif state.series.forks(header):  # 5
        fault = Reason.PRODUCER_FORK, f"sequence {header.sequence} of this instance was signed with another root"
    carried = (batch.header_line, batch.signatures_line)
    if fault is not None:
        place = _Place(partition, offset, append_ms, clock_ms)
        judgement = _refused("batch", value, place, *fault, producer=header.producer)
        judgement.carried, judgement.batch = carried, header
        return judgement
    genesis = genesis_of(state)
    speakers = _speakers(
        registry.digest, tuple([entry.key_id for entry in opened.authorities]), partition, genesis.partitions
    )
    verdicts = _plain_verdicts(batch, opened, clock_ms, genesis, speakers.allowed, state, meters)  # 6
    if verdicts is None:
        place = _Place(partition, offset, append_ms, clock_ms)
        verdicts = _verdicts(batch, opened, place, genesis, speakers, state, meters, books)
    not_accepted, text, entries, leaves, identities, rejections, corrections = verdicts
    return Judgement(
        "batch",
        opened.digest.hex(),
        append_ms,
        clock_ms,
        None,
        not_accepted,
        carried,
        header,
        text,
        entries,
        leaves,
        identities,
        rejections,
        corrections,
    )


def genesis_of(state: LogState) -> Genesis:
    """The genesis of a log that has one."""
    if state.genesis is None:
        message = "a record cannot be judged before the genesis of its log"
        raise ValueError(message)
    return state.genesis


def _plain_verdicts(  # noqa: PLR0917 - as `_verdicts`
    batch: Batch,
    opened: OpenedRecord,
    clock_ms: int,
    genesis: Genesis,
    allowed: set[_Speaker],
    state: LogState,
    meters: AbstractSet[str],
) -> _Verdicts | None:
    """Step 6 where it refuses no line, as nearly always: rule by rule for all lines together.

    None says nothing about any line.
    """
    plain = opened.plain
    if plain is None or not plain.meters <= meters or not allowed.issuperset(plain.speakers):
        return None
    limits = genesis.limits
    if plain.latest_us > (opened.append_ms + limits.future_tolerance_ms) * _US_PER_MS:
        return None
    if plain.earliest_us < (clock_ms - limits.horizon_ms) * _US_PER_MS:
        return None
    identities, entries, leaves, text = plain.identities, opened.entries, opened.leaves, batch.value
    repeats = state.index.repeats(identities, entries)
    if repeats is None:
        return None
    if not repeats:
        return [], text[batch.start :], entries, leaves, identities, [], []
    ends = memoryview(plain.ends).cast("q")
    fresh = _runs_without(repeats, len(ends))
    return (
        [(number, DUPLICATE, entries[ENTRY_BYTES * number : ENTRY_BYTES * (number + 1)].hex()) for number in repeats],
        b"".join([text[ends[first - 1] if first else batch.start : ends[end - 1]] for first, end in fresh]),
        b"".join([entries[ENTRY_BYTES * first : ENTRY_BYTES * end] for first, end in fresh]),
        b"".join([leaves[HASH_BYTES * first : HASH_BYTES * end] for first, end in fresh]),
        b"".join([identities[IDENTITY_BYTES * first : IDENTITY_BYTES * end] for first, end in fresh]),
        [],
        [],
    )


def _runs_without(numbers: Sequence[int], count: int) -> list[tuple[int, int]]:
    """The numbers below `count` that are not among these, which ascend, as runs: the first, and the one behind it."""
    runs: list[tuple[int, int]] = []
    first = 0
    for number in (*numbers, count):
        if first < number:
            runs.append((first, number))
        first = number + 1
    return runs


def _verdicts(  # noqa: PLR0917 - what a line is judged by
    batch: Batch,
    opened: OpenedRecord,
    place: _Place,
    genesis: Genesis,
    speakers: _Speakers,
    state: LogState,
    meters: AbstractSet[str],
    books: Books,
) -> _Verdicts:
    """Step 6, for each line: the event itself, its partition, the key's authority, meters, correction, time, identity.

    One pass, every rule in its order. `_plain_verdicts` is the same for lines of which none is refused.
    """
    partition = genesis.partition
    latest_us = (place.append_ms + genesis.limits.future_tolerance_ms) * _US_PER_MS
    earliest_us = (place.clock_ms - genesis.limits.horizon_ms) * _US_PER_MS
    entries, leaves, lines = hashes_in(opened.entries), hashes_in(opened.leaves), batch.lines
    events = read_events(lines)
    identities = [_NONE if isinstance(event, InvalidEvent) else identity_of(event.source, event.id) for event in events]
    known = state.index.get_many(identities)
    seen: dict[bytes, bytes] = {}
    accepted: list[int] = []
    not_accepted: list[NotAccepted] = []
    rejections: list[Rejection] = []
    corrections: list[StatedEffect] = []
    claims: dict[bytes, bytes] = {}

    for number, event, identity, held in zip(range(len(events)), events, identities, known, strict=True):
        first: bytes | None = None
        if isinstance(event, InvalidEvent):
            reason, detail = event.reason, event.detail
        else:
            data = event.data
            fault = speakers.fault_of(speaker_of(event.source, event.subject, data.customer), opened.authorities)
            if fault is not None:
                reason, detail = fault
            elif not data.usage.keys() <= meters:
                undeclared = min(data.usage.keys() - meters)
                reason, detail = Reason.UNKNOWN_METER, f"data.usage.{undeclared}: no such meter is declared"
            elif data.corrects is not None and (wrong := fault_of_correction(event, lines[number], genesis)):
                reason, detail = Reason.CORRECTION_NOT_ALLOWED, wrong
            elif event.time_us > latest_us:
                reason, detail = Reason.IN_FUTURE, "time: beyond the tolerance after the broker's append time"
            elif event.time_us < earliest_us:
                reason, detail = Reason.TOO_LATE, "time: before the ingest clock minus the horizon"
            else:
                entry = entries[number]
                first = held or seen.get(identity)
                if first is None:
                    if data.corrects is not None:
                        effect = judged_effect(event, seen, claims, state, books)
                        if effect is Effect.APPLIED:
                            claims[claim_of(event.source, data.corrects.id)] = entry
                        corrections.append((state.position + len(accepted), effect))
                    seen[identity] = entry
                    accepted.append(number)
                    continue
                if first == entry:
                    not_accepted.append((number, DUPLICATE, entry.hex()))
                    continue
                reason, detail = Reason.CONFLICTING_ID, "id: accepted before with other bytes; the first stands"
        not_accepted.append((number, reason.value, entries[number].hex()))
        rejections.append(
            make_rejection(
                reason,
                detail,
                lines[number],
                partition=partition,
                offset=place.offset,
                line=number,
                append_ms=place.append_ms,
                producer=batch.header.producer,
                first_digest=None if first is None else first.hex(),
            )
        )
    return (
        not_accepted,
        b"".join([lines[number] + b"\n" for number in accepted]),
        b"".join([*(entries[number] for number in accepted), *claims.values()]),
        b"".join([leaves[number] for number in accepted]),
        b"".join([*seen, *claims]),
        rejections,
        corrections,
    )


def _refused(
    kind: Kind, value: bytes | None, place: _Place, reason: Reason, detail: str, *, producer: str | None = None
) -> Judgement:
    """The verdict on a record that is refused as a whole; `producer` where a known key vouched for it."""
    rejection = make_rejection(
        reason,
        detail,
        value or b"",
        partition=place.partition,
        offset=place.offset,
        line=None,
        append_ms=place.append_ms,
        producer=producer,
    )
    digest = None if value is None else rejection.header.digest
    return Judgement(kind, digest, place.append_ms, place.clock_ms, reason, rejections=[rejection])


def judge_hole(state: LogState) -> Judgement:
    """The verdict on a run of offsets without records (transaction markers); it has no time of its own."""
    return Judgement("hole", None, state.clock_ms, state.clock_ms)


def judge_lost(state: LogState) -> Judgement:
    """An operator's verdict on source records that retention removed before they were sequenced."""
    return Judgement("hole", None, state.clock_ms, state.clock_ms, Reason.SOURCE_LOST)


def judge_quarantined(
    value: bytes | None, *, partition: int, offset: int, append_ms: int | None, state: LogState, why: str
) -> Judgement:
    """An operator's verdict on a record that is set aside unjudged; `append_ms` is None if it could not be read."""
    at_ms = state.clock_ms if append_ms is None else append_ms
    place = _Place(partition, offset, at_ms, max(state.clock_ms, at_ms))
    return _refused("quarantined", value, place, Reason.QUARANTINED, why)
