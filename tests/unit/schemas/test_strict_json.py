"""`parse_object` takes what a strict reader of RFC 8259 takes, less what two readers could understand differently."""

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproof_schemas.limits import DEPTH_MAX
from meterproof_schemas.strict_json import NotStrictJson, depth_of, parse_object
from tests.unit.schemas.documents import damaged, respelled

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=5)


def reference(line: bytes) -> Any:
    """The same rules, slowly, by the standard library."""
    text = line.decode("utf-8")
    if text.startswith("\ufeff") or any(ord(character) < 0x20 for character in text):
        raise ValueError(line)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError(line)
        return dict(pairs)

    def constant(name: str) -> Any:
        raise ValueError(name)

    def finite(spelled: str) -> float:
        if math.isinf(number := float(spelled)):
            raise ValueError(spelled)
        return number

    def whole(spelled: str) -> int:
        finite(spelled)
        return int(spelled)

    value = json.loads(text, object_pairs_hook=unique, parse_constant=constant, parse_float=finite, parse_int=whole)
    if not isinstance(value, dict) or depth(value) > DEPTH_MAX:
        raise ValueError(line)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # no lone surrogates
    return value


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(OBJECTS, st.integers(0, 2**32))
def test_every_spelling_of_a_document_gives_the_document(document: dict[str, Any], seed: int) -> None:
    assert parse_object(respelled(document, random.Random(seed))) == document


@settings(max_examples=250)
@given(OBJECTS, st.integers(0, 2**32))
def test_the_verdict_on_damaged_lines_is_the_reference_s(document: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    line = damaged(respelled(document, rng), rng)
    try:
        expected = reference(line)
    except (ValueError, RecursionError):
        with pytest.raises(NotStrictJson):
            parse_object(line)
    else:
        # 2^64 and above become floats: no field takes a float.
        assert repr(parse_object(line)) == repr(expected) or parse_object(line) == expected


@given(OBJECTS, st.integers(0, 2**32), st.booleans())
def test_a_repeated_name_is_found_at_any_depth(document: dict[str, Any], seed: int, escaped: bool) -> None:
    rng = random.Random(seed)
    paths = list(_objects(document))
    path = rng.choice(paths)
    repeated = "\\u0074wice" if escaped else "twice"
    text = _spell(document, path, f'"twice":0,"{repeated}":0')
    assert json.loads(text)
    with pytest.raises(NotStrictJson, match="occurs twice"):
        parse_object(text.encode("utf-8", "surrogatepass"))


def _objects(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if isinstance(value, dict):
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from _objects(inner, (*path, name))


def _spell(value: Any, path: tuple[Any, ...] | None, members: str) -> str:
    """The value as JSON, with `members` put into the object at `path`."""

    def below(name: Any) -> tuple[Any, ...] | None:
        return path[1:] if path and path[0] == name else None

    if isinstance(value, dict):
        parts = [
            f"{json.dumps(name)}:{_spell(inner, below(name), members)}"
            for name, inner in value.items()
            if name != "twice"
        ]
        return "{" + ",".join([members, *parts] if path == () else parts) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_spell(inner, below(number), members) for number, inner in enumerate(value)) + "]"
    return json.dumps(value)


@given(VALUES)
def test_depth_is_the_nesting(value: Any) -> None:
    assert depth_of(value) == depth(value)


@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_depth_is_bounded(opening: str) -> None:
    closing = {"{": "}", "[": "]"}[opening[0]]

    def nested(levels: int) -> bytes:
        return ('{"x":' + opening * (levels - 1) + "0" + closing * (levels - 1) + "}").encode()

    assert parse_object(nested(DEPTH_MAX))
    for levels in (DEPTH_MAX + 1, 500, 5_000, 100_000):
        with pytest.raises(NotStrictJson):
            parse_object(nested(levels))


def test_many_brackets_are_no_depth() -> None:
    assert parse_object(b'{"a":[' + b",".join([b"[]"] * 100) + b"]}")
    assert parse_object(b'{"a":"' + b"[" * 100 + b'"}')


def test_a_file_may_have_lines_and_tabs_a_line_may_not() -> None:
    file = b'{\n\t"a": 1\r\n}\n'
    assert parse_object(file, one_line=False) == {"a": 1}
    for line in (file, b'{"a":\t1}', b'{"a":1}\r', b'{"a":1}\n', b'\n{"a":1}'):
        with pytest.raises(NotStrictJson, match="control"):
            parse_object(line)
    with pytest.raises(NotStrictJson, match="twice"):
        parse_object(b'{\n"a":1,\n"a":1}', one_line=False)


@pytest.mark.parametrize(
    "line", [b"", b" ", b"[]", b'"a"', b"1", b"null", b"{} {}", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"{}\0"]
)
def test_anything_but_an_object_is_refused(line: bytes) -> None:
    with pytest.raises(NotStrictJson):
        parse_object(line)
