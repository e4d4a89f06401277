"""What a correction does that a log has accepted."""

from enum import StrEnum


class Effect(StrEnum):
    """What an accepted correction does. Only `applied` changes a total; every other stands in the log and does nothing.

    Closed: another effect is another version of the contract.
    """

    APPLIED = "applied"
    """It took back, or replaced, the event that it carries."""
    UNKNOWN_TARGET = "unknown_target"
    """The log has accepted no such event within the horizon."""
    OTHER_CONTENT = "other_content"
    """The log has accepted another line under that identity."""
    ALREADY_CORRECTED = "already_corrected"
    """An earlier correction of that event was applied."""
    OTHER_PRICE = "other_price"
    """The event may have been counted at another price than the book now in force gives it."""
