"""A sequencer that states another effect of a correction than its log gives is found from the audit folder alone."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from meterproof_proofs.note import Verifier
from meterproof_schemas.correction import correction_line
from meterproof_schemas.effect import Effect
from meterproof_schemas.log_record import LogRecord
from meterproof_schemas.price_book import PriceBook
from meterproof_sinks.audit_erasure import erase_from_log
from meterproof_sinks.audit_folder import segments_of
from meterproof_sinks.audit_retention import RetentionRequest
from meterproof_sinks.disk import Disk
from meterproof_sinks.log_verification import verify_log
from meterproof_sinks.segment_manifest import read_manifest
from meterproof_sinks.verification import verify_folder
from meterproof_sinks.verification_inputs import VerificationInputs
from meterproof_sinks.verification_memory import VerificationMemory
from meterproof_sinks.verification_report import LogReport
from meterproof_stream.judge import Judgement
from tests.audit_upkeep import give_up_all
from tests.builders import make_genesis_record, make_limits
from tests.log_builder import LogBuilder
from tests.published_log import publish, seal, vkey_of
from tests.rated_log import BOOKS, RatedLog
from tests.unit.sinks.test_verify_in_parallel import PoolInThisProcess

GENESIS: Final = make_genesis_record(limits=make_limits(corrections=True))
HOUR_MS: Final = 3_600_000


@dataclass
class LyingLog(RatedLog):
    """A log whose sequencer states of some corrections another effect than it should, or none."""

    genesis_value: bytes | None = GENESIS
    lies: dict[str, Effect | None] = field(default_factory=dict)
    """By the correction's id."""

    def _append(self, judgement: Judgement) -> LogRecord:
        ids = [orjson.loads(line)["id"] for line in judgement.lines]
        first = self.state.position
        stated = [
            (position, self.lies.get(ids[position - first], effect)) for position, effect in judgement.corrections
        ]
        judgement.corrections = [(position, effect) for position, effect in stated if effect is not None]
        return super()._append(judgement)


def void(line: bytes, name: str) -> bytes:
    return correction_line(line, correction_id=name, kind="void", salt="0" * 32)


def replace(line: bytes, name: str, requests: int) -> bytes:
    usage = orjson.loads(line)["data"]["usage"] | {"requests": requests}
    return correction_line(line, correction_id=name, kind="replace", salt="0" * 32, usage=usage)


def corrected(lies: dict[str, Effect | None] | None = None) -> LyingLog:
    """A log of several segments with a correction of each effect, most of them far behind their events."""
    log = LyingLog(seed=3, lies=lies or {})
    events = log.rich_events(300)
    for at in range(0, 300, 60):
        log.batch(events[at : at + 60])
    log.batch([void(events[0], "v0"), replace(events[299], "c299", 7)])
    log.batch(log.rich_events(200))
    log.batch([void(events[0], "again"), replace(events[1], "c1", 9), void(events[1], "c1-again")])
    log.batch([void(log.rich_event(), "unsent"), replace(_other(events[2]), "other", 5)])
    log.batch(log.rich_events(40))
    log.price_book = 2
    log.batch([void(events[3], "dear")])
    log.hole()
    log.batch(log.rich_events(3))
    return log


def _other(line: bytes) -> bytes:
    document = orjson.loads(line)
    return orjson.dumps(document | {"data": document["data"] | {"operation": "another"}})


SEGMENT_RECORDS: Final = 3
EFFECTS: Final = {
    "v0": Effect.APPLIED,
    "c299": Effect.APPLIED,
    "again": Effect.ALREADY_CORRECTED,
    "c1": Effect.APPLIED,
    "c1-again": Effect.ALREADY_CORRECTED,
    "unsent": Effect.UNKNOWN_TARGET,
    "other": Effect.OTHER_CONTENT,
    "dear": Effect.OTHER_PRICE,
}


def _plain(audit: Path, log: LogBuilder) -> Path:
    folder = publish(audit, log, segment_records=SEGMENT_RECORDS)
    for path in ("tlog", "records-tlog"):
        shutil.rmtree(folder / path)
    return folder


def _sealed(
    audit: Path, log: LogBuilder, records: int | None = None, *, segment_records: int = SEGMENT_RECORDS
) -> Path:
    folder = publish(audit, log, records, segment_records=segment_records)
    seal(folder, log)
    return folder


FOLDERS: Final[dict[str, Callable[[Path, LogBuilder], Path]]] = {
    "one segment": publish,
    "nothing published": _plain,
    "sealed": _sealed,
    "a part published": lambda audit, log: _sealed(audit, log, 4),
}


def inputs_of(log: LogBuilder, books: dict[int, PriceBook] = BOOKS, **more: Any) -> VerificationInputs:
    return VerificationInputs([Verifier.parse(vkey_of(log))], books=books, **more)


def counts(report: LogReport) -> tuple[int, int]:
    return report.corrections, report.corrections_unchecked


def test_the_log_has_every_effect() -> None:
    log = corrected()
    stated = {
        orjson.loads(record.lines[position - record.header.first])["id"]: effect
        for _, record in log.records
        for position, effect in record.header.effects.items()
    }
    assert stated == EFFECTS


@pytest.mark.parametrize("kind", FOLDERS)
def test_what_is_true_holds(tmp_path: Path, kind: str) -> None:
    log = corrected()
    folder = FOLDERS[kind](tmp_path, log)
    report = verify_log(folder, inputs_of(log))
    assert report.holds, report.faults
    assert counts(report) == (8, 0)


LIES: Final = [
    *(
        (name, lie)
        for name, true in EFFECTS.items()
        for lie in (*Effect, None)
        if lie is not true and {lie, true} != {Effect.UNKNOWN_TARGET, Effect.OTHER_CONTENT}
    )
]
"""Everything but what differs in words only."""


@pytest.mark.parametrize(("name", "lie"), LIES)
def test_every_lie_is_found_and_named(tmp_path: Path, name: str, lie: Effect | None) -> None:
    log = corrected({name: lie})
    folder = FOLDERS[list(FOLDERS)[LIES.index((name, lie)) % len(FOLDERS)]](tmp_path, log)
    report = verify_log(folder, inputs_of(log))
    fault = report.faults[0]
    assert "correction" in fault.fault
    lines = fault.file.read_bytes() if not fault.file.name.endswith(".zst") else None
    if lines is not None and fault.line is not None:
        assert b'"kind":"batch"' in lines.splitlines()[fault.line - 1]
    inputs = inputs_of(log)
    together = verify_log(folder, inputs, None, PoolInThisProcess(inputs))
    assert together.as_json() == report.as_json()


def test_processes_find_what_one_pass_finds(tmp_path: Path) -> None:
    log = corrected()
    folder, inputs = _sealed(tmp_path, log), inputs_of(log, memory=VerificationMemory(), remember=True)
    alone, together = verify_log(folder, inputs), verify_log(folder, inputs, None, PoolInThisProcess(inputs))
    assert together.as_json() == alone.as_json()
    assert together.verified == alone.verified


def test_the_books_lie_in_the_folder(tmp_path: Path) -> None:
    log = corrected()
    publish(tmp_path / "audit", log)
    keys = [Verifier.parse(vkey_of(log))]
    (tmp_path / "audit" / "prices").mkdir()
    assert counts(verify_folder(tmp_path, keys).logs[0]) == (8, 1)
    for version, book in BOOKS.items():
        file = tmp_path / "audit" / "prices" / f"{version}.json"
        file.write_bytes(orjson.dumps(book.model_dump(mode="json", exclude_none=True)))
    report = verify_folder(tmp_path, keys)
    assert not report.all_faults
    assert counts(report.logs[0]) == (8, 0)


def test_a_later_run_remembers_what_was_corrected(tmp_path: Path) -> None:
    """The events and their first corrections are in segments that it does not follow again."""
    log = corrected({"again": Effect.APPLIED})
    log.records = log.records[:8]
    folder = _sealed(tmp_path / "first", log, segment_records=1)
    first = verify_log(folder, inputs_of(log, memory=VerificationMemory(), remember=True))
    assert first.holds, first.faults
    assert first.verified is not None
    assert first.verified.effects is not None
    assert len(first.verified.effects.claims) == 2
    memory = VerificationMemory.model_validate_json(
        VerificationMemory(logs={log.origin: first.verified}).model_dump_json()
    )
    for lie in (None, Effect.APPLIED):
        whole = corrected({} if lie is None else {"again": lie})
        folder = _sealed(tmp_path / str(lie), whole, segment_records=1)
        again = verify_log(folder, inputs_of(whole, memory=memory, remember=True))
        assert again.resumed > 0
        assert again.holds == (lie is None), again.faults
    old = first.verified.model_copy(update={"effects": None})
    fresh = verify_log(folder, inputs_of(log, memory=VerificationMemory(logs={log.origin: old}), remember=True))
    assert fresh.resumed == 0, "a file of before says nothing of corrections"


def test_what_was_erased_is_corrected_as_before(tmp_path: Path) -> None:
    """The entry of an erased event is there; of an erased correction nothing is, and later ones are in doubt."""
    for erased, unchecked in ({b'"id":"c1"': 0, b'"id":"v0"': 2, b'"id":"c299"': 3}).items():
        log = corrected()
        folder = _sealed(tmp_path / str(unchecked), log)
        erase_from_log(folder, lambda line, erased=erased: erased in line, (), Disk())  # type: ignore[misc]
        report = verify_log(folder, inputs_of(log))
        assert report.holds, report.faults
        assert report.erased > 0
        assert report.corrections == 8
        assert report.corrections_unchecked >= unchecked


def test_what_was_given_up_leaves_some_unchecked(tmp_path: Path) -> None:
    log = corrected()
    folder = _sealed(tmp_path / "audit", log)
    before_ms = read_manifest(segments_of(folder)[1]).end.clock_ms + 1
    give_up_all(tmp_path / "audit", RetentionRequest(before_ms, "ops", "policy", 0), ())
    report = verify_log(folder, inputs_of(log))
    assert report.holds, report.faults
    assert report.kept_from > 0
    assert 0 < report.corrections_unchecked <= report.corrections


def test_a_log_that_takes_none_has_none(tmp_path: Path) -> None:
    log = LyingLog(genesis_value=make_genesis_record(limits=make_limits(corrections=False)))
    (line,) = log.rich_events(1)
    log.batch([line])
    log.state.genesis = log.genesis.model_copy(
        update={"limits": log.genesis.limits.model_copy(update={"corrections": True})}
    )
    log.batch([void(line, "c")])
    report = verify_log(publish(tmp_path, log), inputs_of(log))
    assert "takes none" in report.faults[0].fault


def test_a_name_may_be_spelled_with_escapes(tmp_path: Path) -> None:
    """Where no effect is stated, whatever spelling of `corrects` is found."""
    log = LyingLog(lies={"c": None})
    (line,) = log.rich_events(1)
    log.batch([line])
    log.batch([void(line, "c").replace(b'"corrects"', b'"\\u0063orrect\\u0073"')])
    assert len(log.records[-1][1].lines) == 1
    report = verify_log(publish(tmp_path, log), inputs_of(log))
    assert "a correction" in report.faults[0].fault


@pytest.mark.parametrize("seed", range(6))
def test_drawn_histories(tmp_path: Path, seed: int) -> None:
    """Corrections of anything, in any order, over more than the horizon: what the sequencer states is what is found."""
    draw, log = random.Random(seed), LyingLog(seed=seed)
    sent: list[bytes] = []
    for number in range(25):
        batch = log.rich_events(draw.randrange(1, 8))
        for _ in range(draw.randrange(4)):
            line = draw.choice([*sent[-40:], *batch, log.rich_event()])
            name = f"c{number}.{len(batch)}"
            batch.append(void(line, name) if draw.random() < 0.5 else replace(line, name, draw.randrange(9)))
        draw.shuffle(batch)
        sent += [line for line in batch if b'"corrects"' not in line]
        log.batch(batch, after_ms=draw.choice((0, 1_000, HOUR_MS, 9 * HOUR_MS)))
    stated = [effect for _, record in log.records for effect in record.header.effects.values()]
    assert len(set(stated)) > 2
    report = verify_log(_sealed(tmp_path, log), inputs_of(log))
    assert report.holds, report.faults
    assert counts(report) == (len(stated), 0)
    assert report.events == log.state.position


def test_an_id_that_is_used_again_after_the_horizon_is_judged_as_by_the_sequencer(tmp_path: Path) -> None:
    """What a correction claims outlives its event by up to a horizon; ids are for ever, so nobody should see this."""
    log = LyingLog(seed=5)
    first = log.rich_event(event_id="again")
    log.batch([first])
    log.batch([void(first, "c0")], after_ms=10 * HOUR_MS)
    log.batch(log.rich_events(1), after_ms=15 * HOUR_MS)
    second = log.rich_event(event_id="again")
    log.batch([second], after_ms=HOUR_MS)
    log.batch([void(second, "c1")])
    stated = [effect for _, record in log.records for effect in record.header.effects.values()]
    assert stated == [Effect.APPLIED, Effect.ALREADY_CORRECTED]
    report = verify_log(_sealed(tmp_path, log), inputs_of(log))
    assert report.holds, report.faults
    assert counts(report) == (2, 0)
