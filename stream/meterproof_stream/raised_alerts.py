"""Which alerts of one partition of `usage.alerts` have been raised: what keeps one from being raised again."""

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from meterproof_schemas.budget import Alert, alert_key


class _Stated(msgspec.Struct, frozen=True, gc=False):
    limit: str
    currency: str | None = None
    meters: tuple[str, ...] | None = None


_decoder: Final = msgspec.json.Decoder(_Stated)


class RaisedAlerts:
    """The alerts that stand on one partition, 16 bytes each. Lives as long as the partition is held.

    A budget whose limit was changed may alert again for the same window: it is another statement under the same key.
    """

    def __init__(self, records: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._known: set[bytes] = set()
        for key, value in records:
            try:
                stated = _decoder.decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # not an alert: raised by nobody
            self._known.add(_digest(key, stated.limit, stated.currency, stated.meters))

    def new(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Those that were not raised yet; from now on they count as raised, so whoever asks must raise them."""
        found = []
        for alert in alerts:
            digest = _digest(alert_key(alert), alert.limit, alert.currency, alert.meters)
            if digest not in self._known:
                self._known.add(digest)
                found.append(alert)
        return found


def _digest(key: bytes, limit: str, currency: str | None, meters: tuple[str, ...] | None) -> bytes:
    return hashlib.blake2b(repr((key, limit, currency, meters)).encode(), digest_size=16).digest()
