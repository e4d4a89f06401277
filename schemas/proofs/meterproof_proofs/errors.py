"""Every error this package raises, as one tree.

Each error carries its facts as fields, so that a program can branch on them, and says in its text what is wrong and
where. No message ever holds secret key material.
"""


class ProofError(Exception):
    """Root of all errors of this package: something that was to be proved is malformed or not true."""


class WrongHashSize(ProofError):
    """A hash is not exactly 32 bytes.

    Checked before any comparison: a verifier that follows RFC 9162 to the letter finds a zero-length leaf hash and a
    zero-length root equal.
    """

    def __init__(self, what: str, found_bytes: int) -> None:
        """Name the hash (`what`, for example "proof hash 3") and give its length in bytes."""
        super().__init__(what, found_bytes)
        self.what = what
        self.found_bytes = found_bytes

    def __str__(self) -> str:
        """Say which hash has which length."""
        return f"{self.what} is {self.found_bytes} bytes long; a SHA-256 hash is exactly 32 bytes"


class OutOfRange(ProofError):
    """A position or a tree size lies outside what the tree at hand allows."""

    def __init__(self, what: str, value: int, lowest: int, highest: int) -> None:
        """Name the number and give the range, both ends included; `highest < lowest` when nothing is allowed."""
        super().__init__(what, value, lowest, highest)
        self.what = what
        self.value = value
        self.lowest = lowest
        self.highest = highest

    def __str__(self) -> str:
        """Say which number must lie where."""
        if self.highest < self.lowest:
            return f"{self.what} is {self.value}, but here no value is possible"
        return f"{self.what} is {self.value}; it must be from {self.lowest} to {self.highest}"


class MalformedFrontier(ProofError):
    """The number of subtree hashes does not fit the tree size (one per set bit of the size)."""

    def __init__(self, size: int, expected_hashes: int, found_hashes: int) -> None:
        """Give the tree size, how many hashes it needs and how many there are."""
        super().__init__(size, expected_hashes, found_hashes)
        self.size = size
        self.expected_hashes = expected_hashes
        self.found_hashes = found_hashes

    def __str__(self) -> str:
        """Say how many hashes the size needs."""
        return f"a frontier of size {self.size} has {self.expected_hashes} hashes, not {self.found_hashes}"


class BadProof(ProofError):
    """An inclusion or consistency proof does not prove what it claims."""

    def __init__(self, claim: str, problem: str) -> None:
        """Give the claim in words (for example "inclusion of 5 in 8") and why the proof does not hold."""
        super().__init__(claim, problem)
        self.claim = claim
        self.problem = problem

    def __str__(self) -> str:
        """Say which claim fails and why."""
        return f"{self.claim} is not proved: {self.problem}"


class MalformedNote(ProofError):
    """Bytes that are not a signed note, or a text that cannot be signed as one."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        """Say what is wrong, and in which line (counted from 1) where one line is to blame."""
        super().__init__(problem, line)
        self.problem = problem
        self.line = line

    def __str__(self) -> str:
        """Say what is wrong and where."""
        return f"malformed note{_at(self.line)}: {self.problem}"


class MalformedCheckpoint(ProofError):
    """A note text that is not a checkpoint, or values that no checkpoint can hold."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        """Say what is wrong, and in which line (counted from 1) where one line is to blame."""
        super().__init__(problem, line)
        self.problem = problem
        self.line = line

    def __str__(self) -> str:
        """Say what is wrong and where."""
        return f"malformed checkpoint{_at(self.line)}: {self.problem}"


class MalformedKey(ProofError):
    """A verifier key, a signing key or a key name that does not follow the format. Never shows the key material."""

    def __init__(self, problem: str) -> None:
        """Say what is wrong with the key."""
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        """Say what is wrong with the key."""
        return f"malformed key: {self.problem}"


class UnverifiedNote(ProofError):
    """A well-formed note that none of the given keys vouches for, or that a known key's signature contradicts."""

    def __init__(self, problem: str, key_names: tuple[str, ...]) -> None:
        """Say what failed; `key_names` are the names on the signature lines concerned."""
        super().__init__(problem, key_names)
        self.problem = problem
        self.key_names = key_names

    def __str__(self) -> str:
        """Say what failed, with the key names as the note gives them."""
        names = ", ".join(ascii(name) for name in self.key_names)
        return f"note not verified: {self.problem} (signed as {names})"


class WrongOrigin(ProofError):
    """A validly signed checkpoint of another log than the one asked for."""

    def __init__(self, expected: str, found: str) -> None:
        """Give the origin asked for and the one the checkpoint names."""
        super().__init__(expected, found)
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        """Say which log the checkpoint belongs to."""
        return f"the checkpoint is of log {self.found!r}, not of {self.expected!r}"


class MalformedTilePath(ProofError):
    """A text that is not the path of a tile or an entry bundle, or values that no such path can hold."""

    def __init__(self, path: str, problem: str) -> None:
        """Give the path as it was found, or the values in words, and what is wrong with it."""
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        """Say which path and what is wrong."""
        return f"malformed tile path {self.path!a}: {self.problem}"


class MissingTile(ProofError):
    """A tile or an entry bundle that the tree's size implies is not there."""

    def __init__(self, path: str) -> None:
        """Give its path; for a partial one the full one was not there either."""
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        """Say which one."""
        return f"{self.path} is missing, though the tree's size implies it"


class BadTile(ProofError):
    """A tile or an entry bundle has the wrong length, or hashes that do not lead to the signed root."""

    def __init__(self, path: str, problem: str) -> None:
        """Give its path and what is wrong with its content."""
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        """Say which one and what is wrong."""
        return f"{self.path} does not hold: {self.problem}"


class MalformedBundle(ProofError):
    """Bytes that are not an entry bundle of the width asked for, or entries that no bundle can hold."""

    def __init__(self, problem: str, entry: int | None = None) -> None:
        """Say what is wrong, and with which entry of the bundle (from 0) where one is to blame."""
        super().__init__(problem, entry)
        self.problem = problem
        self.entry = entry

    def __str__(self) -> str:
        """Say what is wrong and where."""
        return f"malformed entry bundle{'' if self.entry is None else f', entry {self.entry}'}: {self.problem}"


class MalformedTlogProof(ProofError):
    """Bytes that are not a tlog-proof, or values that none can hold."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        """Say what is wrong, and in which line (counted from 1) where one line is to blame."""
        super().__init__(problem, line)
        self.problem = problem
        self.line = line

    def __str__(self) -> str:
        """Say what is wrong and where."""
        return f"malformed proof{_at(self.line)}: {self.problem}"


class MalformedEventProof(ProofError):
    """Bytes that are not an event proof, or values that none can hold."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        """Say what is wrong, and in which line (counted from 1) where one line is to blame."""
        super().__init__(problem, line)
        self.problem = problem
        self.line = line

    def __str__(self) -> str:
        """Say what is wrong and where."""
        return f"malformed event proof{_at(self.line)}: {self.problem}"


class TooFewWitnesses(ProofError):
    """Fewer of the known witnesses cosigned a checkpoint than the caller requires."""

    def __init__(self, required: int, found: tuple[str, ...]) -> None:
        """Give how many are required and the names of those that did."""
        super().__init__(required, found)
        self.required = required
        self.found = found

    def __str__(self) -> str:
        """Say how many are missing and who is there."""
        names = ", ".join(map(ascii, self.found)) or "none"
        return f"{self.required} known witnesses must have cosigned the checkpoint; {len(self.found)} did: {names}"


def _at(line: int | None) -> str:
    return "" if line is None else f" in line {line}"
