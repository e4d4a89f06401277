"""The parts of the Faust driver that need no broker."""

import asyncio
import importlib.metadata
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import faust
import faust.streams
import pytest
from aiokafka import ConsumerRecord
from faust.transport.conductor import Conductor
from faust.transport.drivers import aiokafka as driver
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from faust.types.tuples import TP
from mode import Service
from pydantic import SecretStr

from meterproof.exit_codes import exit_code_of
from meterproof.health import HealthSettings
from meterproof.kafka.errors import BrokerUnreachable
from meterproof.kafka.settings import KafkaSettings
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.reasons import StopReason
from meterproof_schemas.topics import Topic
from meterproof_stream.engine import Engine, in_pieces
from meterproof_stream.errors import FaustChanged
from meterproof_stream.faust_driver import (
    BUNDLE_BYTES_MAX,
    FaustDriver,
    _Bundle,
    _credentials,
    _finish,
    _is_delivery,
    _Worker,
    check_faust,
)
from meterproof_stream.settings import WorkerSettings


def test_the_installed_faust_is_the_one_that_the_driver_was_proved_with() -> None:
    check_faust()


@pytest.mark.parametrize("version", ["0.15.2", "0.15.4", "1.0"])
def test_another_faust_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    with pytest.raises(FaustChanged, match=version):
        check_faust()


def test_a_faust_without_its_compiled_iterator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faust.streams, "_CStreamIterator", None)
    with pytest.raises(FaustChanged, match="compiled"):
        check_faust()


@pytest.mark.parametrize(
    ("part", "name"), [(Conductor, "_compile_message_handler"), (driver.Consumer, "_drain_messages")]
)
def test_a_faust_that_delivers_records_in_another_way_is_refused(
    part: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, name, lambda _: None)
    with pytest.raises(FaustChanged, match="in another way"):
        check_faust()


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_faust_authenticates_as_every_other_client_does(protocol: Any, mechanism: Any) -> None:
    kafka = KafkaSettings(
        security_protocol=protocol, sasl_mechanism=mechanism, sasl_username="meter", sasl_password=SecretStr("s3cret")
    )
    expected = {name: value for name, value in kafka.client_args().items() if name.startswith(("sasl", "security"))}
    credentials = _credentials(kafka)
    found = dict(credentials_to_aiokafka_auth(credentials))
    context = found.pop("ssl_context", None)
    assert found == expected
    assert (context is not None) == protocol.endswith("SSL")
    assert "s3cret" not in f"{credentials} {credentials!r}"


async def test_a_crash_of_any_part_of_faust_reaches_the_worker_at_once() -> None:
    class Part(Service):
        pass

    crashed: list[BaseException] = []
    app = faust.App("crashing", broker="kafka://127.0.0.1:1", web_enabled=False)
    worker = _Worker(
        app,
        loop=asyncio.get_running_loop(),
        on_signal=lambda: None,
        on_handlers=lambda: None,
        on_crash=crashed.append,
    )
    worker.add_dependency(app)
    part = Part(beacon=app.beacon)
    error = RuntimeError("cannot go on")
    await part.crash(error)
    assert crashed
    assert set(crashed) == {error}


async def test_the_last_commit_is_of_all_though_an_earlier_one_is_under_way(tmp_path: Path) -> None:
    engine = cast("Engine", SimpleNamespace())
    settings = WorkerSettings(instance="one", data_dir=tmp_path)
    kafka, health = KafkaSettings(), HealthSettings(port=None)
    driver = FaustDriver(engine, worker="sequencer", topic=Topic.BATCHES, kafka=kafka, settings=settings, health=health)
    driver._prepare()
    end, committed, may_end = 3, list[int](), asyncio.Event()

    class Consumer(driver._make_consumer()):  # type: ignore[misc]  # a class that is made
        async def force_commit(self, *_: object, **__: object) -> bool:
            begun_at = end
            await may_end.wait()
            committed.append(begun_at)
            return True

    consumer = Consumer.__new__(Consumer)
    consumer._commit_fut, consumer.app, consumer.loop = None, driver._app, asyncio.get_running_loop()
    earlier = asyncio.create_task(consumer.commit())
    await asyncio.sleep(0)
    end = 11
    last = asyncio.create_task(consumer.commit_and_end_transactions())
    may_end.set()
    await asyncio.gather(earlier, last)
    assert committed == [3, 11]


async def _step_then_finish(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Step a coroutine by hand up to its first wait, as the driver does, and let the rest run as it would have."""
    coroutine = make()
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        return end.value
    return await _finish(coroutine, awaited)


async def test_a_coroutine_stepped_by_hand_ends_as_it_would_have() -> None:
    async def ready() -> int:
        return 1

    async def waits() -> int:
        await asyncio.sleep(0)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, future.set_result, 2)
        return await future + await ready()

    async def raises() -> None:
        await asyncio.sleep(0.001)
        raise ValueError("its own")

    assert await _step_then_finish(ready) == 1
    assert await _step_then_finish(waits) == 3
    with pytest.raises(ValueError, match="its own"):
        await _step_then_finish(raises)


async def test_a_cancellation_reaches_a_coroutine_stepped_by_hand() -> None:
    seen: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(_step_then_finish(waits))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


async def test_only_deliveries_are_run_in_place() -> None:
    async def on_message() -> None: ...

    async def another() -> None: ...

    delivery, other = on_message(), another()
    assert _is_delivery(delivery)
    assert not _is_delivery(other)
    assert not _is_delivery(asyncio.Event())
    delivery.close()
    other.close()


def fetched(sizes: list[int]) -> list[ConsumerRecord[bytes, bytes]]:
    return [
        ConsumerRecord("t", 3, 10 + number, 1_000 + number, 1, None, bytes(size), None, -1, size, ())
        for number, size in enumerate(sizes)
    ]


def test_bundles_hold_every_record_in_order_and_are_no_larger_than_said() -> None:
    half = BUNDLE_BYTES_MAX // 2
    records = fetched([half, half, 1, BUNDLE_BYTES_MAX + 1, 0, half])
    bundles = [list(bundle) for bundle in in_pieces(records, BUNDLE_BYTES_MAX)]
    assert bundles == [records[:2], records[2:3], records[3:4], records[4:]]
    assert list(in_pieces(fetched([]), BUNDLE_BYTES_MAX)) == []


def test_a_bundle_stands_where_its_last_record_does_and_faust_waits_for_no_acknowledgement() -> None:
    records = fetched([1, 1])
    bundle = _Bundle(TP("t", 3), records, 7)
    assert (bundle.topic, bundle.partition, bundle.offset, bundle.generation_id) == ("t", 3, 11, 7)
    assert bundle.records is records
    assert bundle.tracked


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StageStopped(StopReason.FENCED, ""), 75),
        (BrokerUnreachable("here", "gone"), 75),
        (StageStopped(StopReason.LOG_DIVERGED, ""), 78),
        (StageStopped(StopReason.SOURCE_DIVERGED, ""), 78),
        (StageStopped(StopReason.SOURCE_LOST, ""), 78),
        (ValueError(), 70),
        (MemoryError(), 70),
    ],
)
def test_exit_codes_say_whether_a_person_is_needed(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code
