"""The noting worker as a process, for whoever asks what a runtime does."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

import orjson

from meterproof.status import read_status
from meterproof_stream.runtime import Runtime
from tests.integration.stream.noting_worker import Orders
from tests.integration.stream.workers import PATIENCE_S, Pipeline


class NotingWorker:
    """The worker as a process; ended when the block ends."""

    def __init__(self, pipeline: Pipeline, runtime: Runtime, **orders: Any) -> None:
        kafka = pipeline.kafka
        told = Orders(kafka.bootstrap, kafka.topic_prefix, str(pipeline.data), runtime, **orders)
        self._data = pipeline.data
        self._output = pipeline.data / f"noting-{time.monotonic_ns()}.out"
        self._log = self._output.with_suffix(".log")
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.stream.noting_worker", orjson.dumps(asdict(told)).decode()],
                stdout=output,
                stderr=log,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def notes(self, call: str) -> list[dict[str, Any]]:
        """What it wrote down of one kind of call."""
        whole = self._output.read_bytes().rpartition(b"\n")[0]  # without what is being written
        lines = [line for line in whole.splitlines() if line.startswith(b"{")]
        return [found for found in map(orjson.loads, lines) if found["call"] == call]

    def fed(self) -> list[int]:
        """The offsets of all records fed."""
        return [found["offset"] for found in self.notes("feed")]

    def wait_until(self, holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            ended = self.process.poll() is not None  # before the look: what it said last counts
            if holds():
                return
            if ended or time.monotonic() > deadline_s:
                raise AssertionError(f"{self._output.read_text()}\n{self._log.read_text()}")
            time.sleep(0.05)

    def end(self) -> int:
        """Its exit code, when it ends by itself."""
        return self.process.wait(PATIENCE_S)

    def log(self) -> str:
        return self._log.read_text()

    def status(self) -> dict[str, Any]:
        """Its status file; empty before there is one of this process."""
        status = read_status(self._data / "status", "noting")
        return {} if status is None or status["pid"] != self.process.pid else status

    def probe(self, path: str) -> tuple[int, list[str]]:
        """Status and reasons; (0, []) where nothing answers."""
        return probe(self.status().get("health_port"), path)


def probe(port: int | None, path: str) -> tuple[int, list[str]]:
    """Ask a worker's health: HTTP status and reasons; (0, []) where nothing answers."""
    if port is None:
        return 0, []
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
            return answer.status, json.loads(answer.read())["reasons"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["reasons"]
    except OSError:
        return 0, []


def metrics(port: int) -> str:
    """A worker's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())
