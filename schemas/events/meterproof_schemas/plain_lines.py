"""Event lines that need no special look, column by column: natively where that could be built, else in Python.

What it does stands in `python_plain_lines`, which is its definition. `_plain_lines.c` takes lines in the commonest
spelling alone (compact, no unknown field, no null) and costs a quarter of it; all others are left to the definition. It
is there if a C compiler was when this package was installed.
"""

from meterproof_schemas import python_plain_lines
from meterproof_schemas.python_plain_lines import PlainLines, speaker_of

try:
    from meterproof_schemas import _plain_lines
except ImportError:
    read_plain_lines = python_plain_lines.read_plain_lines
else:

    def read_plain_lines(text: bytes, start: int, /) -> PlainLines | None:
        """As in `python_plain_lines`."""
        found = _plain_lines.read_plain_lines(text, start)
        return python_plain_lines.read_plain_lines(text, start) if found is None else PlainLines._make(found)


__all__ = ["PlainLines", "read_plain_lines", "speaker_of"]
