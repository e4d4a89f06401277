"""What a folder is verified against: the logs' keys, the producers' keys, and what is known from before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from meterproof_proofs.note import Verifier
from meterproof_schemas.keys import KeyRegistry, parse_registry
from meterproof_schemas.price_book import PriceBook
from meterproof_sinks.remembered_checkpoints import RememberedCheckpoint
from meterproof_sinks.verification_memory import VerificationMemory, keys_digest

OnProgress = Callable[[int], None]
"""Called with the bytes that were checked since the last call."""


@dataclass(frozen=True, slots=True)
class Producers:
    """The producers' keys to check signatures with."""

    registry: KeyRegistry
    without_secret: frozenset[str]
    """Ids of `hmac-sha256` keys whose secret is not here: nobody but its holders can check those signatures."""


@dataclass(frozen=True, slots=True)
class VerificationInputs:
    """What a folder is verified against, beside itself."""

    verifiers: Sequence[Verifier]
    """The keys that may sign checkpoints. A key named like a log's origin is the only one for that log."""
    producers: Producers | None = None
    """The producers' keys; without them their signatures are counted as unchecked."""
    remembered: Sequence[RememberedCheckpoint] = ()
    """Checkpoints kept from before, of any of the logs."""
    memory: VerificationMemory | None = None
    """What earlier runs found true; None to derive everything."""
    books: Mapping[int, PriceBook] = field(default_factory=dict)
    """The published price books, as far as they are here: what an event cost bears on what its correction does."""
    remember: bool = False
    """Whether to tell in the report what the next run need not derive."""

    @property
    def keys(self) -> str:
        """Digest of all keys."""
        return keys_digest(self.verifiers, None if self.producers is None else self.producers.registry.digest)


def load_producers(path: Path) -> Producers:
    """The producers' keys of a registry file; shared secrets that are not on this machine are left out.

    Raises:
        InvalidRegistry: the file is faulty.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    try:
        document = orjson.loads(content)
        keys = [key for key in document["keys"] if isinstance(key, dict)]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        document, keys = None, []
    absent = {
        str(key.get("key_id"))
        for key in keys
        if key.get("algorithm") == "hmac-sha256" and not (path.parent / str(key.get("secret_file"))).is_file()
    }
    if document is not None and absent:
        document["keys"] = [key for key in document["keys"] if key.get("key_id") not in absent]
        content = orjson.dumps(document)
    return Producers(parse_registry(content, folder=path.parent), frozenset(absent))
