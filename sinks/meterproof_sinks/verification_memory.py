"""What a verification found true, kept in a file of the verifier's own, so that the next one need not derive it again.

For each log: the SHA-256 of both files of every segment that was followed to its end, and where that led: the chain,
the frontiers of both trees, and what bears on corrections to come. The next run hashes those files again, byte for
byte, and goes on behind them only if every digest is the same, no segment was added or removed between them, and the
keys are those of before; in any other case it starts from the first byte. Published tiles are derived and compared on
every run: for what was followed before, from the entries in the published bundles, which must lead to the frontier that
the lines led to.

So a resumed run trusts one thing more than a full one: the file itself. Whoever can write it can make the next run pass
over lines that were changed with it. Keep it where only the verifier writes, or leave it out now and then.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from meterproof_proofs.note import Verifier
from meterproof_schemas.batch import Digest
from meterproof_schemas.errors import first_fault

_CLOSED: Final = ConfigDict(extra="forbid", frozen=True, strict=True)
_Hashes = Annotated[str, StringConstraints(strict=True, pattern=r"^([0-9a-f]{64})*$")]


class BadMemory(Exception):
    """The resume file cannot be read; the text says what to do."""


class VerifiedSegment(BaseModel):
    """One segment that was followed to its end, and that another one follows."""

    model_config = _CLOSED
    first: int
    events: Digest
    """SHA-256 of the file of event lines."""
    records: Digest
    """SHA-256 of the file of frames and heads."""


class VerifiedEffects(BaseModel):
    """What a log's records up to some point say of corrections to come: see `effect_verification`."""

    model_config = _CLOSED
    claims: dict[str, int] = Field(default_factory=dict)
    """What applied corrections claim, in hexadecimal, with the ingest clock of each, oldest first."""
    books: Annotated[tuple[Annotated[tuple[int, int], Field(strict=False)], ...], Field(strict=False)] = ()
    """Price books in force: from which ingest clock on, and the version; oldest first."""
    claims_since_ms: int = 0
    """Ingest clock since which every claim is known."""
    books_since_ms: int = 0
    """Ingest clock since which every price book is known."""


class VerifiedLog(BaseModel):
    """The segments of one log that were followed, and where they led."""

    model_config = _CLOSED
    origin: str
    keys: Digest
    """Digest of the keys that vouched for it: see `keys_digest`."""
    segments: Annotated[tuple[VerifiedSegment, ...], Field(strict=False)]
    log_offset: int
    digest: Digest
    next_source_offset: int
    clock_ms: int
    position: int
    events_frontier: _Hashes
    records_frontier: _Hashes
    counts: dict[str, int]
    """The report's counts up to there."""
    effects: VerifiedEffects | None = None
    """Of corrections; None in files of before effects were derived, behind which no run goes on."""


class VerificationMemory(BaseModel):
    """The file: one `VerifiedLog` per log, by origin."""

    model_config = _CLOSED
    version: Literal[1] = 1
    logs: dict[str, VerifiedLog] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "VerificationMemory":
        """Read the file; an empty memory if there is none.

        Raises:
            BadMemory: it is faulty.
            OSError: it cannot be read.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            message = f"{path}: {first_fault(error)}; remove it to verify from the start"
            raise BadMemory(message) from error

    def save(self, path: Path) -> None:
        """Replace the file in one step, readable by its owner only."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.model_dump_json(indent=1).encode() + b"\n")
        temporary.replace(path)


def keys_digest(verifiers: Iterable[Verifier], registry: str | None) -> str:
    """What stands for the keys of a run: other keys may find another verdict.

    Args:
        verifiers: the logs' keys.
        registry: digest of the producers' registry; None if their signatures are not checked.

    """
    text = "\n".join([*sorted(key.vkey for key in verifiers), f"registry {registry}"])
    return hashlib.sha256(text.encode()).hexdigest()
