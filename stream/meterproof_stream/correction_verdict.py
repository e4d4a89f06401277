"""What becomes of a correction: whether it may stand in a log, and what it does there (pure)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from meterproof_schemas.correction import (
    accepted_since_ms,
    check_correction,
    claim_of,
    corrected,
    effect_of,
    same_price,
)
from meterproof_schemas.effect import Effect
from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import Event, UsageEvent, identity_of
from meterproof_schemas.fold import LogState
from meterproof_schemas.log_record import Genesis
from meterproof_schemas.price_book import PriceBook

Books = Mapping[int, PriceBook]
"""The price books that were published, by version; the highest is in force."""
NO_BOOKS: Final[Books] = MappingProxyType({})


def fault_of_correction(event: Event, line: bytes, genesis: Genesis) -> str | None:
    """Why a correction may not stand in this log; None if it may."""
    if not genesis.limits.corrections:
        return "data.corrects: the genesis of this log says that it takes no corrections"
    try:
        check_correction(event, line)
    except InvalidEvent as error:
        return error.detail
    return None


def judged_effect(
    event: Event, accepted: Mapping[bytes, bytes], claims: Mapping[bytes, bytes], state: LogState, books: Books
) -> Effect:
    """What a correction does that may stand in the log.

    Args:
        event: the correction.
        accepted: entries by identity of the lines before it in its batch.
        claims: what corrections before it in its batch claim.
        state: the fold of the log up to the record before.
        books: the highest version is the one that the correction will count by.

    """
    target = corrected(event)
    identity, claim = identity_of(target.source, target.id), claim_of(target.source, target.id)
    held, claimed = state.index.get_many((identity, claim))
    corrects = event.data.corrects
    line = "" if corrects is None or corrects.line is None else corrects.line
    effect = effect_of(
        line.encode(), held or accepted.get(identity), corrected_before=claimed is not None or claim in claims
    )
    if effect is Effect.APPLIED and not _is_price_known(target, state, books):
        return Effect.OTHER_PRICE
    return effect


def _is_price_known(target: UsageEvent, state: LogState, books: Books) -> bool:
    """Whether the price that an event was counted at is the one that the book in force gives it.

    The log does not say by which book it counted one event of so long ago, but by which it has counted since before the
    event can have been accepted: if all of them and the one in force agree on its price, there is no doubt.
    """
    if state.genesis is None:
        return False
    versions = state.books.since(accepted_since_ms(target, state.genesis.limits)) | {max(books, default=0)}
    if not versions <= books.keys() | {0}:
        return False
    return same_price(target, [books.get(version) for version in versions])
