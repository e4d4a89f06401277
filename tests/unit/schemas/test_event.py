"""Identity, entry, and the two classes that are events."""

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from meterproof_schemas.event import (
    Event,
    UsageEvent,
    encode_event,
    entry_of,
    identities_of_events,
    identity_of,
    parse_event,
)
from meterproof_schemas.fast_event import read_event
from tests.builders import make_event
from tests.unit.schemas.documents import GOOD_EVENTS, valid_document, valid_line

NAMES = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=20)


def test_both_readers_give_events() -> None:
    events: list[Event] = [parse_event(valid_line()), read_event(valid_line())]
    assert isinstance(events[0], UsageEvent)
    assert {(event.source, event.id, event.subject, event.data.customer) for event in events} == {
        ("gateway.eu-1", "01JD3Z9Q8V6T3K5M7N9P1R3S5T", "team-a/agent-0042", "acme")
    }


def test_encode_writes_what_the_fast_path_reads() -> None:
    line = encode_event(valid_document())
    assert line == valid_line()
    assert not isinstance(read_event(line), UsageEvent)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=2, max_size=2, unique=True))
def test_different_names_have_different_identities(pairs: list[tuple[str, str]]) -> None:
    first, second = pairs
    assert identity_of(*first) != identity_of(*second)
    assert len(identity_of(*first)) == 16


def test_a_border_between_source_and_id_cannot_be_moved() -> None:
    assert identity_of("ab", "c") != identity_of("a", "bc")
    assert identity_of("a", "b").hex() == hashlib.blake2b(b"a\0b", digest_size=16).hexdigest()


@given(GOOD_EVENTS)
def test_an_entry_is_the_digest_of_the_line(document: dict[str, object]) -> None:
    line = json.dumps(document).encode()
    assert entry_of(line) == hashlib.sha256(line).digest()


def test_identities_of_many_events_are_those_of_each() -> None:
    named = [("a", "1"), ("a", "2"), ("b", "1"), ("a", "1"), ("ä", "ö")]
    events = [parse_event(make_event(event_id, source=source)) for source, event_id in named]
    assert identities_of_events(events) == [identity_of(*names) for names in named]
    assert identities_of_events([]) == []
