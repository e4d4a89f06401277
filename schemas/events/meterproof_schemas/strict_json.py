"""One JSON object per line, read strictly: what two parsers could understand differently is refused.

The library lets through what must not pass here: `orjson` keeps the last of two equal names and makes 2^64 a float.
"""

import json
from typing import Any, Final

import orjson

from meterproof_schemas.limits import DEPTH_MAX

_CONTROLS: Final = bytes(range(0x20))


class NotStrictJson(ValueError):
    """The line is not one strict JSON object; the text says what is wrong."""


def parse_object(line: bytes, *, one_line: bool = True) -> dict[str, Any]:
    """Parse one line (or, with `one_line=False`, a whole file) as a JSON object.

    Refused: bytes that are not UTF-8 JSON, a byte order mark, raw control characters (tab, CR, LF included), names that
    occur twice in one object, nesting deeper than `DEPTH_MAX`, anything but an object.

    A line that equals its own compact re-serialisation can hold none of the first three, which is how the helper writes
    them; only other spellings pay for the second parse.

    Raises:
        NotStrictJson: with the fault.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise NotStrictJson(f"not JSON: {error}") from None
    if type(value) is not dict:
        raise NotStrictJson("not a JSON object")
    if line.count(b"{") + line.count(b"[") > DEPTH_MAX and depth_of(value) > DEPTH_MAX:
        raise NotStrictJson(f"nested deeper than {DEPTH_MAX}")
    if orjson.dumps(value) != line:
        if one_line and len(line.translate(None, _CONTROLS)) != len(line):
            raise NotStrictJson("a raw control character (tab, CR, LF …) outside a string")
        _refuse_repeated_names(line)
    return value


def depth_of(value: Any) -> int:  # noqa: ANN401 - any JSON value
    """Nesting of a JSON value: a scalar is 0, `{}` is 1, `{"a": []}` is 2."""
    deepest, level = 0, [value]
    while level:
        inner: list[Any] = []
        nested = False
        for item in level:
            if type(item) is dict:
                nested = True
                inner.extend(item.values())
            elif type(item) is list:
                nested = True
                inner.extend(item)
        deepest += nested
        level = inner
    return deepest


def _refuse_repeated_names(line: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            seen: set[str] = set()
            repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise NotStrictJson(f"the name {repeated[:64]!r} occurs twice in one object")
        return names

    try:
        # Numbers are not looked at here: the fields that may hold them are checked by type afterwards.
        json.loads(line, object_pairs_hook=unique, parse_int=str, parse_float=str)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise NotStrictJson(f"not JSON: {error}") from None
