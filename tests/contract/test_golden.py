"""The golden messages are what the generator makes, and every reader makes of them what their index says."""

from decimal import Decimal
from typing import Any

import orjson
import pytest

from meterproof_proofs.checkpoint import open_checkpoint
from meterproof_proofs.frontier import batch_root
from meterproof_proofs.note import Signer, Verifier
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.accounts import Account, Accounts
from meterproof_schemas.batch import decode_batch, encode_batch
from meterproof_schemas.chain import LogChain
from meterproof_schemas.checkpoint_record import (
    checkpoint_key,
    decode_checkpoint_record,
    encode_checkpoint_record,
    records_frontier,
)
from meterproof_schemas.errors import InvalidEvent
from meterproof_schemas.event import entry_of, identity_of, parse_event
from meterproof_schemas.fast_event import read_event, read_events
from meterproof_schemas.fold import LogState, fold
from meterproof_schemas.instant import parse_instant_us
from meterproof_schemas.keys import load_registry
from meterproof_schemas.log_record import Limits, decode_record, frontier_of, make_genesis
from meterproof_schemas.partitioner import partition_of
from meterproof_schemas.price_book import parse_price_book
from meterproof_schemas.quantity import plain
from meterproof_schemas.records_tree import head_entry, head_of, records_origin, records_verifiers
from meterproof_schemas.rejection import decode_rejection, encode_rejection, rejection_key
from meterproof_stream.judge import judge, judge_hole, judge_quarantined
from meterproof_stream.record_builder import InForce, append_record
from tests.contract.golden_generator import FOLDER, golden_files

EVENTS: dict[str, Any] = orjson.loads((FOLDER / "events/index.json").read_bytes())
BATCHES: dict[str, Any] = orjson.loads((FOLDER / "batches/index.json").read_bytes())
LOG: dict[str, Any] = orjson.loads((FOLDER / "log/expected.json").read_bytes())


def test_the_files_are_what_the_generator_makes() -> None:
    made = golden_files()
    present = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert present == set(made), "formats are frozen: a change is a new version"
    assert [name for name, content in made.items() if (FOLDER / name).read_bytes() != content] == []


@pytest.mark.parametrize("name", EVENTS["valid"])
def test_valid_events_are_read(name: str) -> None:
    line, expected = (FOLDER / "events" / name).read_bytes(), EVENTS["valid"][name]
    for event in (parse_event(line), read_event(line)):
        assert event.time == expected["time"]
        assert event.time_us == parse_instant_us(expected["time"])
        assert identity_of(event.source, event.id).hex() == expected["identity"]
        assert entry_of(line).hex() == expected["entry"]
        assert partition_of(event.subject, EVENTS["partitions"]) == expected["partition"]
        assert event.data.usage == orjson.loads(line)["data"]["usage"]


@pytest.mark.parametrize("name", EVENTS["hostile"])
def test_hostile_events_are_refused_for_the_reason_of_the_index(name: str) -> None:
    line = (FOLDER / "events" / name).read_bytes()
    valid = (FOLDER / "events/valid/minimal.json").read_bytes()
    for reader in (parse_event, read_event):
        with pytest.raises(InvalidEvent) as refusal:
            reader(line)
        assert refusal.value.reason == EVENTS["hostile"][name]["reason"]
    together = read_events([valid, line])
    assert not isinstance(together[0], InvalidEvent)
    assert isinstance(together[1], InvalidEvent)


def _empty_log() -> LogState:
    state = LogState()
    limits = Limits(
        line_bytes_max=65_536,
        batch_bytes_max=524_288,
        batch_lines_max=1_000,
        future_tolerance_ms=BATCHES["future_tolerance_ms"],
        horizon_ms=BATCHES["horizon_ms"],
        corrections=BATCHES["corrections"],
    )
    state.offer(
        0,
        make_genesis(
            name="meter.example.com/golden",
            epoch="0" * 32,
            deployment=BATCHES["audience"],
            source_topic=BATCHES["topic"],
            partition=BATCHES["partition"],
            partitions=BATCHES["partitions"],
            limits=limits,
            created_ms=0,
        ),
    )
    return state


@pytest.mark.parametrize(
    ("folder", "case"), [(folder, case) for folder in ("valid", "hostile") for case in BATCHES[folder]]
)
def test_batches_get_the_verdicts_of_the_index(folder: str, case: str) -> None:
    state = _empty_log()
    registry = load_registry(FOLDER / "batches" / BATCHES["registry"])
    for offset, step in enumerate(BATCHES[folder][case]):
        value = (FOLDER / "batches" / folder / step["file"]).read_bytes()
        judgement = judge(
            value,
            partition=BATCHES["partition"],
            offset=offset,
            append_ms=step["append_ms"],
            state=state,
            registry=registry,
            meters=frozenset(BATCHES["meters"]),
        )
        assert judgement.reason == step.get("reason")
        if "lines" in step:
            batch = decode_batch(value)
            verdicts = dict.fromkeys(range(batch.header.count), "accepted")
            verdicts |= {number: verdict for number, verdict, _ in judgement.not_accepted}
            expected = step["lines"]
            if isinstance(expected, dict):
                ((verdict, count),) = expected.items()
                expected = [verdict] * count
            assert list(verdicts.values()) == expected
            assert encode_batch(batch.header_line, batch.signatures_line, batch.lines) == value
        built = append_record(
            state,
            judgement,
            log_offset=offset + 1,
            source_offset=offset,
            in_force=InForce(registry.digest, 0, "0" * 32, 1),
        )
        assert decode_record(built.value).header == built.header
    assert any("reason" in step for step in BATCHES[folder][case]) == (folder == "hostile")


def _records() -> list[tuple[int, bytes]]:
    return [(offset, (FOLDER / "log" / name).read_bytes()) for offset, name in enumerate(LOG["records"])]


def _account(account: Account) -> dict[str, Any]:
    return {
        "events": account.events,
        "usage": {meter: plain(quantity) for meter, quantity in account.usage.items()},
        "spend": plain(account.spend),
    }


def test_the_log_folds_into_the_expected_state() -> None:
    expected = LOG["fold"]
    book = parse_price_book((FOLDER / "log/price-book.json").read_bytes())
    accounts = Accounts({book.version: book})
    state = fold(_records(), LogState(accounts=accounts))
    assert state.genesis is not None
    assert state.genesis.origin == LOG["origin"]
    for name in ("log_offset", "digest", "next_source_offset", "clock_ms", "position", "foreign"):
        assert getattr(state, name) == expected[name], name
    assert state.frontier.root().hex() == expected["root"]
    assert [node.hex() for node in state.frontier.hashes] == expected["frontier"]
    assert dict(state.counts) == {name: count for name, count in expected["counts"].items() if count}
    assert {" ".join(key): numbers for key, numbers in state.series.gaps().items()} == expected["gaps"]
    assert len(state.index) == len(expected["identities"])
    for identity, entry in expected["identities"].items():
        assert state.index.get(bytes.fromhex(identity)) == bytes.fromhex(entry)
    assert {name: _account(account) for name, account in accounts.agents.items()} == expected["agents"]
    assert {name: _account(account) for name, account in accounts.customers.items()} == expected["customers"]
    assert sum((account.spend for account in accounts.agents.values()), Decimal(0)) == Decimal("0.0225253")


def test_the_sequencer_makes_the_same_log_from_the_same_source() -> None:
    """Judged and chained again from the source records: every record of the chain, byte for byte."""
    records = dict(zip(LOG["records"], (value for _, value in _records()), strict=True))
    state = LogState()
    state.offer(0, records[LOG["records"][0]])
    registry = load_registry(FOLDER / "batches/registry.json")
    book = parse_price_book((FOLDER / "log/price-book.json").read_bytes())
    for source in LOG["source"]:
        golden = decode_record(records[source["record"]]).header
        value = None if source["file"] is None else (FOLDER / "log/source" / source["file"]).read_bytes()
        if golden.kind == "hole":
            judgement = judge_hole(state)
        elif golden.operator is not None:
            judgement = judge_quarantined(
                value, partition=1, offset=source["offset"], append_ms=source["append_ms"], state=state, why="why"
            )
        else:
            judgement = judge(
                value,
                partition=1,
                offset=source["offset"],
                append_ms=source["append_ms"],
                state=state,
                registry=registry,
                meters=book.meter_names(),
            )
        built = append_record(
            state,
            judgement,
            log_offset=LOG["records"].index(source["record"]),
            source_offset=source["offset"],
            source_count=source["count"],
            in_force=InForce(registry.digest, book.version, golden.writer, golden.generation),
            operator=golden.operator,
        )
        assert built.value == records[source["record"]], source["record"]
    assert state.digest == LOG["fold"]["digest"]


def test_a_log_with_corrections_adds_up_to_what_stands() -> None:
    expected = orjson.loads((FOLDER / "corrections/expected.json").read_bytes())
    book = parse_price_book((FOLDER / "log/price-book.json").read_bytes())
    accounts = Accounts({book.version: book})
    records = [(FOLDER / "corrections" / name).read_bytes() for name in expected["records"]]
    state = fold(enumerate(records), LogState(accounts=accounts))
    assert (state.digest, dict(state.counts)) == (expected["digest"], expected["counts"])
    assert {name: _account(account) for name, account in accounts.customers.items()} == expected["customers"]


@pytest.mark.parametrize("name", LOG["rejections"])
def test_rejections_are_read(name: str) -> None:
    value = (FOLDER / "log" / name).read_bytes()
    rejection = decode_rejection(value)
    assert rejection_key(rejection.header).decode() == LOG["rejections"][name]
    assert encode_rejection(rejection) == value
    if rejection.header.payload_bytes == len(rejection.payload):
        assert entry_of(rejection.payload).hex() == rejection.header.digest


def test_the_checkpoint_is_signed_over_the_folded_log() -> None:
    value = (FOLDER / "log" / LOG["checkpoint"]["file"]).read_bytes()
    record = decode_checkpoint_record(value)
    assert encode_checkpoint_record(record) == value
    assert checkpoint_key(record.header).decode() == LOG["checkpoint"]["key"]
    checkpoint = open_checkpoint(record.note, [Verifier.parse(LOG["checkpoint"]["vkey"])], origin=LOG["origin"])
    assert (checkpoint.size, checkpoint.root.hex()) == (LOG["fold"]["position"], LOG["fold"]["root"])
    (signed,) = [value for offset, value in _records() if offset == record.header.log_offset]
    assert decode_record(signed).digest == record.header.digest
    assert frontier_of(decode_record(signed).header).root() == checkpoint.root


def test_the_second_tree_is_signed_over_the_heads_of_the_accepted_records() -> None:
    value = (FOLDER / "log" / LOG["checkpoint"]["file_with_records"]).read_bytes()
    record = decode_checkpoint_record(value)
    assert encode_checkpoint_record(record) == value
    assert record.header.records is not None
    assert record.records_note is not None
    chain, heads = LogChain(), []
    for offset, stored in _records():
        taken = chain.offer(offset, stored)
        heads += [] if taken is None else [head_of(taken)]
    name = records_origin(LOG["origin"])
    checkpoint = open_checkpoint(record.records_note, [Verifier.parse(LOG["checkpoint"]["records_vkey"])], origin=name)
    assert checkpoint.size == len(heads) == record.header.records.size
    assert checkpoint.root == batch_root(leaf_hashes(map(head_entry, heads)))
    assert records_frontier(record.header.records).root() == checkpoint.root


def test_a_checkpoint_from_before_the_second_tree_is_read() -> None:
    record = decode_checkpoint_record((FOLDER / "log" / LOG["checkpoint"]["file"]).read_bytes())
    assert record.header.records is None
    assert record.records_note is None


def test_the_keys_of_the_second_tree_follow_from_those_of_the_log() -> None:
    seed, other = bytes(32), b"\x01" * 32
    named, free = Signer("a/p0", seed).verifier, Signer("somebody", other).verifier
    assert records_verifiers([named, free], "a/p0") == [Signer("a/p0/records", seed).verifier, free]
