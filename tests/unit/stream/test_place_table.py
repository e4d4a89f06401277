"""Both tables of places do the same, and keep what the definition promises."""

import random
import sys
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_stream import python_place_table
from tests.native_part import native_part

SEED = bytes(range(16))


def native() -> ModuleType:
    little_endian_of_64_bits = sys.byteorder == "little" and sys.maxsize > 1 << 32
    return native_part("meterproof_stream._place_table", known_processor=little_endian_of_64_bits)


@pytest.fixture(params=["python", "native"])
def places(request: pytest.FixtureRequest) -> ModuleType:
    return python_place_table if request.param == "python" else native()


def identities(count: int, seed: int = 1) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(16) for _ in range(count)]


def test_every_place_is_found_and_few_others(places: ModuleType) -> None:
    tables = [places.PlaceTable(1_000, SEED) for _ in range(3)]
    added = identities(3_000)
    for number in range(0, 3_000, 50):
        tables[number // 1_000].add(b"".join(added[number : number + 50]), number // 50)
    assert [len(table) for table in tables] == [1_000] * 3
    found = set(places.places_of(tables, b"".join(added)))
    assert found >= {(number, number // 1_000, number // 50) for number in range(3_000)}
    assert len(found) < 3_000 * 1.05
    assert len(places.places_of(tables, b"".join(identities(3_000, seed=2)))) < 150


@given(
    st.lists(st.lists(st.integers(0, 300), max_size=90), max_size=12),
    st.binary(min_size=16, max_size=16),
    st.integers(0, python_place_table.PLACES - 20),
)
def test_in_c_it_does_what_the_definition_does(added: list[list[int]], seed: bytes, first: int) -> None:
    """Also where identities differ little, come again, and have any place."""
    modules, count = (python_place_table, native()), sum(map(len, added))
    found = []
    for module in modules:
        table = module.PlaceTable(count + 1, seed)
        for number, known in enumerate(added):
            table.add(b"".join(each.to_bytes(16) for each in known), first + number)
        assert len(table) == count
        found.append(sorted(module.places_of([table], b"".join([each.to_bytes(16) for each in range(310)]))))
    assert found[0] == found[1]
    assert {(each, 0, first + number) for number, known in enumerate(added) for each in known} <= set(found[0])


def test_full_it_takes_no_more(places: ModuleType) -> None:
    table = places.PlaceTable(130, SEED)
    added = identities(131)
    table.add(b"".join(added[:130]), places.PLACES - 1)
    with pytest.raises(ValueError, match="not more than the table takes"):
        table.add(added[130], 0)
    assert len(table) == table.capacity == 130
    assert {(number, 0, places.PLACES - 1) for number in range(130)} <= set(places.places_of([table], b"".join(added)))


def test_half_an_identity_is_an_error(places: ModuleType) -> None:
    table = places.PlaceTable(100, SEED)
    table.add(bytes(16), 7)
    for half in (bytes(15), bytes(17)):
        with pytest.raises(ValueError, match="whole identities"):
            places.places_of([table], half)
    assert places.places_of([table], bytes(32)) == [(0, 0, 7), (1, 0, 7)]
    assert places.places_of([table], b"") == places.places_of([], bytes(16)) == []


@pytest.mark.parametrize(
    ("capacity", "seed"), [(0, SEED), (-1, SEED), ((1 << 32) + 1, SEED), (5, SEED[1:]), (5, SEED + b"x")]
)
def test_a_wrong_capacity_or_seed_is_an_error(places: ModuleType, capacity: int, seed: bytes) -> None:
    with pytest.raises(ValueError, match="seed of 16 bytes"):
        places.PlaceTable(capacity, seed)


@pytest.mark.parametrize(("added", "place"), [(bytes(15), 0), (bytes(16), -1), (bytes(16), python_place_table.PLACES)])
def test_half_an_identity_and_a_place_that_there_is_not_are_errors(
    places: ModuleType, added: bytes, place: int
) -> None:
    table = places.PlaceTable(5, SEED)
    with pytest.raises(ValueError, match="whole identities"):
        table.add(added, place)
    assert len(table) == 0


def test_in_c_wrong_types_are_errors_and_nothing_is_kept() -> None:
    module, one = native(), b"an identity here"
    table = module.PlaceTable(5, SEED)
    references = sys.getrefcount(one), sys.getrefcount(table)
    for arguments in (([table], [one]), ([table, object()], one), (None, one), ([table], 5), ([one], one)):
        with pytest.raises(TypeError):
            module.places_of(*arguments)
    with pytest.raises(TypeError):
        module.places_of([module.PlaceTable.__new__(module.PlaceTable)], one)
    with pytest.raises(ValueError, match="once"):
        table.__init__(5, SEED)
    del arguments
    assert (sys.getrefcount(one), sys.getrefcount(table)) == references
