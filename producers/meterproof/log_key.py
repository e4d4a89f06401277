"""The deployment's log key, which signs checkpoints: one seed, one note key per log, named as the log's origin."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from meterproof.errors import InvalidKey
from meterproof.seed_key import SeedKey
from meterproof_proofs.note import Signer
from meterproof_schemas.records_tree import records_origin


class LogKey(SeedKey):
    """The secret seed of a deployment's logs. Its repr and errors never show it. Lives as long as who signs."""

    prefix = "METERPROOF+LOG+ED25519+"
    command = "meterproof keygen log"

    def signer(self, origin: str) -> Signer:
        """The note signer of one log: key name = origin, as c2sp.org/tlog-checkpoint asks for."""
        return Signer(origin, self._seed)


class LogKeys:
    """The keys that sign a deployment's logs now: one; or, while one replaces the other, the old and the new.

    Every checkpoint carries one signature by each, so verifiers may hold either. Lives as long as the signing process.
    """

    def __init__(self, keys: Sequence[LogKey]) -> None:
        if not keys:
            message = "no log key was given; make one with `meterproof keygen log`"
            raise InvalidKey(message)
        self._keys = tuple(keys)

    @classmethod
    def load(cls, paths: Iterable[Path]) -> "LogKeys":
        """Read key files.

        Raises:
            InvalidKey: there is none, or one is missing, readable by others, or not a log key.
        """
        return cls([LogKey.load(path) for path in paths])

    def signers(self, origin: str) -> list[Signer]:
        """The note signers of one tree, in the order of the keys."""
        return [key.signer(origin) for key in self._keys]

    def verifier_keys(self, origins: Iterable[str]) -> str:
        """The text of a `log.vkey` file: one line per log, tree and key. The second trees' lines follow their log's."""
        names = [name for origin in origins for name in (origin, records_origin(origin))]
        return "".join(f"{signer.verifier.vkey}\n" for name in names for signer in self.signers(name))
