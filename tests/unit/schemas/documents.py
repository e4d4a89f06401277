"""Event documents for hypothesis: valid ones, nearly valid ones, and every odd spelling of them."""

import json
import random
from typing import Any, Final

import orjson
from hypothesis import strategies as st

PLAIN: Final = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=24)
GOOD_NAMES: Final = st.one_of(st.from_regex(r"[a-z0-9/._-]{1,24}", fullmatch=True), PLAIN)
NAMES: Final = st.one_of(
    st.from_regex(r"[a-z0-9/._-]{1,24}", fullmatch=True),
    PLAIN,
    st.text(min_size=1, max_size=12),
    st.sampled_from(
        ["", "a" * 256, "a" * 257, "é" * 128, "é" * 129, "\x7f", "\x85", "\t", "\0", "🦊" * 64, ":", '"', "\\"]
    ),
)
METERS: Final = st.one_of(
    st.sampled_from(["requests", "input_tokens", "a.b_c9", "a" * 64, "a" * 65, "9a", "_a", "A", "é", "a b", "", "a\n"]),
    st.from_regex(r"[a-z][a-z0-9_.]{0,20}", fullmatch=True),
)
QUANTITIES: Final = st.one_of(
    st.integers(min_value=0, max_value=10**6),
    st.integers(min_value=-(2**65), max_value=2**65),
    st.from_regex(r"-?[0-9]{1,19}(\.[0-9]{1,13})?", fullmatch=True),
    st.sampled_from(
        [
            2**63 - 1,
            2**63,
            -(2**63) + 1,
            -(2**63),
            2**64,
            0,
            -1,
            "0",
            "-0",
            "-1",
            "1.",
            ".5",
            "+1",
            "1e4",
            "NaN",
            " 1",
            "1 ",
            "\u0661",
        ]
    ),
    st.sampled_from([1.0, 1.5, True, False, None, [], {}, "", "1\n"]),
)
TIMES: Final = st.one_of(
    st.datetimes().map(lambda moment: moment.isoformat(timespec="microseconds") + "Z"),
    st.datetimes().map(lambda moment: moment.isoformat(timespec="milliseconds") + "Z"),
    st.sampled_from(
        [
            "2026-01-31T23:59:59.123456789Z",
            "2026-01-31T23:59:59.12Z",
            "2026-01-31T23:59:59.1234567890Z",
            "2026-01-31T23:59:59Z",
            "2026-01-31T23:59:60.000Z",
            "2026-01-31T24:00:00.000Z",
            "2026-02-29T00:00:00.000Z",
            "2024-02-29T00:00:00.000Z",
            "0000-01-01T00:00:00.000Z",
            "2026-01-31T23:59:59.123+00:00",
            "2026-01-31t23:59:59.123Z",
            "2026-01-31T23:59:59.123z",
            "2026-01-31T23:59:59.1_3Z",
            "2026-01-31T23:59:59.+12Z",
            "2026-01-31T23:59:59.\u0661\u0662\u0663Z",
            "2026-W05-6T23:59:59.123Z",
            "",
            None,
            0,
        ]
    ),
)
ANYTHING: Final = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), NAMES
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
_HEX: Final = "0123456789abcdef"


def _optional(strategies: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=strategies)


_GOOD_AMOUNTS: Final = st.one_of(
    st.integers(min_value=0, max_value=2**63 - 1), st.from_regex(r"[0-9]{1,18}(\.[0-9]{1,12})?", fullmatch=True)
)
_GOOD_COUNTS: Final = st.integers(min_value=0, max_value=2**63 - 1)
_GOOD_TIMES: Final = st.datetimes().map(lambda moment: moment.isoformat(timespec="milliseconds") + "Z")
_GOOD_METERS: Final = st.from_regex(r"[a-z][a-z0-9_.]{0,20}", fullmatch=True)
_GOOD_DATA: Final = st.fixed_dictionaries(
    {"customer": GOOD_NAMES, "usage": st.dictionaries(_GOOD_METERS, _GOOD_AMOUNTS, min_size=1, max_size=4)},
    optional={
        "operation": GOOD_NAMES,
        "surface": st.sampled_from(["rest", "mcp", "llm", "tool", "agent"]),
        "status": st.sampled_from(["ok", "error", "denied", "rate_limited", "payment_required"]),
        "status_code": st.integers(0, 999),
        "model": GOOD_NAMES,
        "latency": _optional({"total_us": _GOOD_COUNTS, "queue_us": _GOOD_COUNTS}),
        "request_bytes": _GOOD_COUNTS,
        "cost": st.fixed_dictionaries({"amount": _GOOD_AMOUNTS, "currency": st.just("USD")}),
        "tags": st.dictionaries(GOOD_NAMES, GOOD_NAMES, max_size=3),
        "salt": st.text(alphabet=_HEX, min_size=32, max_size=32),
        "x_unknown": ANYTHING,
    },
)
GOOD_EVENTS: Final = st.fixed_dictionaries(
    {
        "specversion": st.just("1.0"),
        "id": GOOD_NAMES,
        "source": GOOD_NAMES,
        "type": st.just("meterproof.usage.v1"),
        "time": _GOOD_TIMES,
        "subject": GOOD_NAMES,
        "data": _GOOD_DATA,
    }
)
"""Valid documents, if the depth of what is unknown is left aside."""
_ODD_FIELDS: Final = {
    "specversion": ANYTHING,
    "id": NAMES,
    "source": NAMES,
    "time": TIMES,
    "subject": NAMES,
    "x_unknown": ANYTHING,
}
_ODD_DATA_FIELDS: Final = {
    "customer": NAMES,
    "usage": st.dictionaries(METERS, QUANTITIES, max_size=4),
    "corrects": _optional({"id": NAMES, "kind": st.sampled_from(["void", "replace", "undo"])}),
    "operation": NAMES,
    "surface": st.sampled_from(["web", "LLM", "", None]),
    "status": st.sampled_from(["OK", None, 1]),
    "status_code": st.sampled_from([0, 1000, -1, "200", 200.0, None]),
    "provider": NAMES,
    "model": st.one_of(NAMES, st.none()),
    "latency": _optional({"total_us": QUANTITIES, "queue_us": QUANTITIES, "other": ANYTHING}),
    "request_bytes": QUANTITIES,
    "traceparent": st.sampled_from(
        ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-" + "A" * 32 + "-" + "b" * 16 + "-01", ""]
    ),
    "cost": st.fixed_dictionaries({"amount": QUANTITIES, "currency": st.sampled_from(["USD", "usd", "EURO"])}),
    "tags": st.dictionaries(NAMES, NAMES, max_size=3),
    "governance": _optional({"residency": NAMES, "purpose": NAMES, "consent": NAMES, "x": ANYTHING}),
    "request_signature": st.one_of(st.text(max_size=20), st.sampled_from(["a" * 4096, "a" * 4097])),
    "receipt": st.text(max_size=20),
    "salt": st.sampled_from(["A" * 32, "a" * 31, "a" * 33, "ab " * 10 + "ab", "\u00e9" * 32, None]),
    "x_unknown": ANYTHING,
}


@st.composite
def odd_events(draw: st.DrawFn) -> dict[str, Any]:
    """A valid document, or one with one or two fields that are probably not."""
    document: dict[str, Any] = draw(GOOD_EVENTS)
    for _ in range(draw(st.integers(0, 2))):
        field = draw(st.sampled_from([*_ODD_FIELDS, *(f"data.{name}" for name in _ODD_DATA_FIELDS)]))
        if field.startswith("data."):
            name = field.removeprefix("data.")
            document = document | {"data": document["data"] | {name: draw(_ODD_DATA_FIELDS[name])}}
        else:
            document = document | {field: draw(_ODD_FIELDS[field])}
    return document


def valid_document(**data: Any) -> dict[str, Any]:
    """A valid event in the order of names that Meter writes; `data` is merged into its payload."""
    return {
        "specversion": "1.0",
        "id": "01JD3Z9Q8V6T3K5M7N9P1R3S5T",
        "source": "gateway.eu-1",
        "type": "meterproof.usage.v1",
        "time": "2026-01-31T23:59:59.123456Z",
        "subject": "team-a/agent-0042",
        "data": {"customer": "acme", "usage": {"requests": 1, "input_tokens": 1234, "output_tokens": "5.25"}} | data,
    }


def valid_line(**data: Any) -> bytes:
    """The line of `valid_document`."""
    return orjson.dumps(valid_document(**data))


def damaged(line: bytes, rng: random.Random) -> bytes:
    """The line with one to three small faults: bytes changed, dropped, doubled, or a member repeated."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(line) + 1)
        piece = rng.choice(
            [
                b" ",
                b"\t",
                b"\r",
                b"\n",
                b"\0",
                b"\x7f",
                b"\\",
                b'"',
                b"\\u0069",
                b",",
                b"1",
                b".0",
                b"e3",
                b"-",
                b"\xc3\xa9",
                b"\xff",
                b'"id":"x",',
                b'"requests":1,',
                b'"customer":"x",',
                b"{",
                b"}",
                b"null",
                b"\xef\xbb\xbf",
            ]
        )
        cut = rng.choice([0, 0, 1, 2])
        line = line[:at] + piece + line[at + cut :]
    return line


def respelled(document: dict[str, Any], rng: random.Random) -> bytes:
    """The document in another spelling: order of names, white space, escapes, names repeated at any depth."""
    text = json.dumps(
        _shuffled(document, rng),
        ensure_ascii=rng.random() < 0.3,
        separators=rng.choice([(",", ":"), (",", ":"), (", ", ": "), (" ,", " : ")]),
    )
    if rng.random() < 0.2:
        text = text.replace("i", "\\u0069", rng.randint(0, 2))
    return text.encode("utf-8", "surrogatepass")


def _shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        if rng.random() < 0.5:
            rng.shuffle(items)
        return {name: _shuffled(item, rng) for name, item in items}
    if isinstance(value, list):
        return [_shuffled(item, rng) for item in value]
    return value
