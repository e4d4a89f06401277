"""The webhook worker: how fast it sends alerts that wait, to an endpoint that takes each at once."""

import os
from typing import Final

import orjson
from aiohttp import web

from meterproof.deployment import DataFolder
from meterproof.kafka.producer import RecordProducer
from meterproof.status import read_status
from meterproof_schemas.budget import alert_key, encode
from meterproof_schemas.topics import Topic
from tests.alerts import alert
from tests.bench.load import PARTITIONS
from tests.bench.result import Run
from tests.bench.rig import BenchDeployment, Rig, expect

_VARIABLE: Final = "METERPROOF_BENCH_WEBHOOK"
_SECRET: Final = "whsec_" + "A" * 43 + "="
_LOOK_INTERVAL_S: Final = 0.05


async def measure_webhook(rig: Rig, *, alerts: int) -> Run:
    """Let the worker send so many alerts; the rate is of those that it has recorded as delivered."""
    ids: set[str] = set()

    async def take(request: web.Request) -> web.Response:
        await request.read()
        ids.add(request.headers["webhook-id"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with rig.deployment() as deployment:
            rig.say("raising alerts")
            await _raise(deployment, alerts)
            return await _deliver(rig, deployment, url, alerts, ids)
    finally:
        await runner.cleanup()


async def _deliver(rig: Rig, deployment: BenchDeployment, url: str, alerts: int, ids: set[str]) -> Run:
    endpoint = {
        "name": "bench",
        "url": url,
        "secret_env": _VARIABLE,
        "since": "2026-01-01T00:00:00.000Z",
        "allow_private_addresses": True,
    }
    file = DataFolder(deployment.data).webhooks
    file.write_bytes(orjson.dumps({"version": 1, "endpoints": [endpoint]}))
    output: list[tuple[float, int]] = []
    counted = 0

    async def delivered() -> bool:
        nonlocal counted
        status = read_status(deployment.data / "status", "webhook") or {}
        done = sum(lane["delivered"] for lane in status.get("endpoints", {}).values())
        if done > counted:
            output.append((status["written_ms"], done - counted))
            counted = done
        return counted >= alerts

    rig.say("sending alerts")
    os.environ[_VARIABLE] = _SECRET
    with deployment.worker("sink", "webhook", "run") as process:
        await process.until(delivered, interval_s=_LOOK_INTERVAL_S)
        await process.stop()
    expect("webhook: messages received", len(ids), alerts)
    return rig.run_of(output, process)


async def _raise(deployment: BenchDeployment, alerts: int) -> None:
    """Put so many alerts, each of another agent, onto their topic."""
    topic = deployment.kafka.topic(Topic.ALERTS)
    async with RecordProducer(deployment.kafka) as producer:
        raised = [alert(f"agent-{number}") for number in range(alerts)]
        sent = [
            await producer.send(topic, number % PARTITIONS, encode(one), alert_key(one))
            for number, one in enumerate(raised)
        ]
        for delivery in sent:
            await delivery
