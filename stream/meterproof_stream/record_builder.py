"""From a judgement to the log record that states it, on top of the log before it."""

from typing import NamedTuple

from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import (
    Operator,
    RecordHeader,
    Source,
    encode_record_header,
    encode_record_text,
    record_digest,
)
from meterproof_schemas.trusted import trusted
from meterproof_stream.judge import Judgement


class InForce(NamedTuple):
    """What a record states about the sequencer that made it."""

    registry: str
    """Digest of the key registry."""
    price_book: int
    """Version; 0 is none."""
    writer: str
    """Random per take-over, 32 hexadecimal digits."""
    generation: int


class BuiltRecord(NamedTuple):
    """A log record that is not yet delivered."""

    value: bytes
    digest: str
    prev: str
    header: RecordHeader


def append_record(
    state: LogState,
    judgement: Judgement,
    *,
    log_offset: int,
    source_offset: int,
    source_count: int = 1,
    in_force: InForce,
    operator: Operator | None = None,
) -> BuiltRecord:
    """Make the next record of the log and advance `state` by it. Both happen, or neither.

    Args:
        state: the fold of the log so far, with all records that are still on their way.
        judgement: what is to be recorded.
        log_offset: where the record is expected to stand on the log.
        source_offset: the first source offset that it answers for; must be the one that is due.
        source_count: how many source offsets.
        in_force: registry, price book, writer and generation.
        operator: who decided, where a person did.

    """
    if source_offset != state.next_source_offset:
        message = f"source offset {source_offset} where {state.next_source_offset} is due"
        raise ValueError(message)
    frontier = state.frontier
    if judgement.leaves:
        frontier = frontier.extended(judgement.leaves)
    prev = state.digest
    # Every field is ours and typed, so it is not validated a second time; readers validate.
    header = trusted(
        RecordHeader,
        {
            "v": 1,
            "kind": judgement.kind,
            "prev": prev,
            "source": trusted(
                Source, {"offset": source_offset, "count": source_count, "digest": judgement.source_digest}
            ),
            "append_ms": judgement.append_ms,
            "clock_ms": judgement.clock_ms,
            "reason": judgement.reason,
            "not_accepted": tuple(judgement.not_accepted),
            "first": state.position,
            "size": frontier.size,
            "root": frontier.root().hex(),
            "frontier": b"".join(frontier.hashes).hex(),
            "registry": in_force.registry,
            "price_book": in_force.price_book,
            "writer": in_force.writer,
            "generation": in_force.generation,
            "operator": operator,
            "genesis": None,
            "corrections": tuple(judgement.corrections) if judgement.corrections else None,
        },
    )
    value = encode_record_text(encode_record_header(header), judgement.carried, judgement.text)
    digest = record_digest(value)
    state.append(log_offset, header, digest, frontier, judgement.identities, judgement.entries, judgement.batch)
    return BuiltRecord(value, digest, prev, header)
