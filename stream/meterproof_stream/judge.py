"""The verdict on one source record: a pure function of its bytes, the log before it, and the registry in force."""

import hashlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from meterproof_proofs.frontier import batch_root, leaf_hashes
from meterproof_schemas.batch import Batch, BatchHeader, decode_batch
from meterproof_schemas.errors import InvalidBatch, InvalidEvent
from meterproof_schemas.event import entries_of, identity_of
from meterproof_schemas.fast_event import read_events
from meterproof_schemas.fold import LogState
from meterproof_schemas.keys import KeyEntry, KeyRegistry
from meterproof_schemas.log_record import Genesis, Kind, NotAccepted
from meterproof_schemas.partitioner import partition_of
from meterproof_schemas.reasons import DUPLICATE, Reason
from meterproof_schemas.rejection import Rejection, make_rejection

_US_PER_MS: Final = 1_000


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

    `lines`, `entries`, `leaves` and `identities` belong to the accepted events, in order, one each.
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
    lines: list[bytes] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    identities: list[bytes] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)


def judge(
    value: bytes | None,
    *,
    partition: int,
    offset: int,
    append_ms: int,
    state: LogState,
    registry: KeyRegistry,
    meters: AbstractSet[str],
) -> Judgement:
    """Judge one source record on top of `state`, which is not changed. Refuses by recording, never by raising.

    The order of the steps is part of the contract: the first fault found is the reason recorded.

    1. something to read; size and structure
    2. audience, topic, partition
    3. signatures, and a key that speaks for the producer
    4. the signed root over the lines
    5. the producer's series
    6. each line: see `_judge_lines`

    Args:
        value: the record's bytes.
        partition: of the source topic and of the log.
        offset: on the source topic.
        append_ms: the broker's append time.
        state: the fold of the log up to the record before; it holds the genesis.
        registry: who may report what.
        meters: names that `data.usage` may have.

    """
    place = _Place(partition, offset, append_ms, max(state.clock_ms, append_ms))
    if not value:
        return _refused("unreadable", value, place, Reason.UNREADABLE_RECORD, "a record without a value")
    genesis = state.genesis
    if genesis is None:
        message = "a record cannot be judged before the genesis of its log"
        raise ValueError(message)
    # 1-2
    try:
        batch = decode_batch(value)
        _check_address(batch.header, genesis)
        # 3
        authorities = registry.authorities(batch.header_line, batch.signatures, batch.header.producer, append_ms)
    except InvalidBatch as error:
        return _refused("batch", value, place, error.reason, error.detail)
    # From here on a known key vouches for the header, so it is kept.
    entries = entries_of(batch.lines)
    leaves = leaf_hashes(entries)
    fault: tuple[Reason, str] | None = None
    if batch_root(leaves).hex() != batch.header.root:  # 4
        fault = Reason.BAD_ROOT, "the signed root is not the root over the lines that came"
    elif state.series.forks(batch.header):  # 5
        fault = Reason.PRODUCER_FORK, f"sequence {batch.header.sequence} of this instance was signed with another root"
    if fault is not None:
        judgement = _refused("batch", value, place, *fault, producer=batch.header.producer)
        judgement.carried, judgement.batch = (batch.header_line, batch.signatures_line), batch.header
        return judgement
    judgement = Judgement(
        "batch",
        hashlib.sha256(value).hexdigest(),
        append_ms,
        place.clock_ms,
        carried=(batch.header_line, batch.signatures_line),
        batch=batch.header,
    )
    _judge_lines(  # 6
        judgement,
        batch,
        place,
        entries=entries,
        leaves=leaves,
        genesis=genesis,
        registry=registry.digest,
        authorities=authorities,
        state=state,
        meters=meters,
    )
    return judgement


def _check_address(header: BatchHeader, genesis: Genesis) -> None:
    """Raise `InvalidBatch` unless the batch is meant for this deployment, topic and partition."""
    if header.audience != genesis.deployment:
        raise InvalidBatch(Reason.WRONG_AUDIENCE, "signed for another deployment")
    if header.topic != genesis.source_topic:
        raise InvalidBatch(Reason.WRONG_AUDIENCE, "signed for another topic")
    if header.partition != genesis.partition:
        raise InvalidBatch(Reason.WRONG_PARTITION, f"signed for partition {header.partition}")


def _judge_lines(  # noqa: PLR0912, PLR0915 - one pass, every rule in its order
    judgement: Judgement,
    batch: Batch,
    place: _Place,
    *,
    entries: list[bytes],
    leaves: list[bytes],
    genesis: Genesis,
    registry: str,
    authorities: list[KeyEntry],
    state: LogState,
    meters: AbstractSet[str],
) -> None:
    """Step 6, for each line: the event itself, its partition, the key's authority, meters, correction, time, identity.

    One pass without an object per event: this loop is what an event costs.
    """
    partition, partitions, corrections = genesis.partition, genesis.partitions, genesis.limits.corrections
    latest_us = (place.append_ms + genesis.limits.future_tolerance_ms) * _US_PER_MS
    earliest_us = (place.clock_ms - genesis.limits.horizon_ms) * _US_PER_MS
    events = read_events(batch.lines)
    identities = [_NONE if isinstance(event, InvalidEvent) else identity_of(event.source, event.id) for event in events]
    known = state.index.get_many(identities)
    seen: dict[bytes, bytes] = {}
    speakers = _speakers(registry, tuple(entry.key_id for entry in authorities), partition, partitions)
    whole = True
    accepted: list[int] = []
    accept = accepted.append

    for number, event, identity, held in zip(range(len(events)), events, identities, known, strict=True):
        first: bytes | None = None
        if isinstance(event, InvalidEvent):
            reason, detail = event.reason, event.detail
        else:
            data = event.data
            speaker = (event.source, event.subject, data.customer)
            try:
                fault = speakers[speaker]
            except KeyError:
                fault = _speaker_fault(authorities, speaker, partition, partitions)
                if len(speakers) < _SPEAKERS_MAX:
                    speakers[speaker] = fault
            if fault is not None:
                reason, detail = fault
            elif not data.usage.keys() <= meters:
                undeclared = min(data.usage.keys() - meters)
                reason, detail = Reason.UNKNOWN_METER, f"data.usage.{undeclared}: no such meter is declared"
            elif data.corrects is not None and not corrections:
                reason, detail = Reason.CORRECTION_NOT_ALLOWED, "data.corrects: this deployment takes no corrections"
            else:
                time_us = event.time_us
                if time_us > latest_us:
                    reason, detail = Reason.IN_FUTURE, "time: beyond the tolerance after the broker's append time"
                elif time_us < earliest_us:
                    reason, detail = Reason.TOO_LATE, "time: before the ingest clock minus the horizon"
                else:
                    entry = entries[number]
                    first = held or seen.get(identity)
                    if first is None:
                        seen[identity] = entry
                        accept(number)
                        continue
                    if first == entry:
                        judgement.not_accepted.append((number, DUPLICATE, entry.hex()))
                        whole = False
                        continue
                    reason, detail = Reason.CONFLICTING_ID, "id: accepted before with other bytes; the first stands"
        whole = False
        judgement.not_accepted.append((number, reason.value, entries[number].hex()))
        judgement.rejections.append(
            make_rejection(
                reason,
                detail,
                batch.lines[number],
                partition=partition,
                offset=place.offset,
                line=number,
                append_ms=place.append_ms,
                producer=batch.header.producer,
                first_digest=None if first is None else first.hex(),
            )
        )
    judgement.identities = list(seen)
    if whole:
        judgement.lines, judgement.entries, judgement.leaves = batch.lines, entries, leaves
    else:
        judgement.lines = [batch.lines[number] for number in accepted]
        judgement.entries = [entries[number] for number in accepted]
        judgement.leaves = [leaves[number] for number in accepted]


_NONE: Final = b""
"""Identity of a line that is no event: an index knows none."""
_Speaker = tuple[str, str, str]
"""Source, agent and customer of a line."""
_Fault = tuple[Reason, str]
_SPEAKERS_MAX: Final = 65_536
"""Speakers remembered for one set of keys."""


@lru_cache(maxsize=16)
def _speakers(
    registry: str, key_ids: tuple[str, ...], partition: int, partitions: int
) -> dict[_Speaker, _Fault | None]:
    """What was found out about speakers under these keys of this registry: None when they may report here."""
    del registry, key_ids, partition, partitions  # they name the memory, and say nothing about what is in it
    return {}


def _speaker_fault(authorities: list[KeyEntry], speaker: _Speaker, partition: int, partitions: int) -> _Fault | None:
    """Why a line of this source, agent and customer does not belong here; a function of the arguments alone."""
    if partition_of(speaker[1], partitions) != partition:
        return Reason.WRONG_PARTITION, "subject: this agent belongs to another partition"
    fault: str | None = None
    for entry in authorities:
        fault = entry.speaks_for(*speaker)
        if fault is None:
            return None
    return Reason.KEY_NOT_ALLOWED, f"{fault}: the key may not speak for it"


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
