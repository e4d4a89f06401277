"""Kafka Streams, exactly once: `Deduplicate.java`, compiled for this run against the jars of `kafka-streams-jars.lock`.

The lock was made like the broker's (see `meterproof_local.jars`), from `org.apache.kafka:kafka-streams:4.3.1`.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from meterproof_local.errors import JarError, JavaError
from meterproof_local.jars import cache_folder, fetch_jars, read_lock
from meterproof_local.java import find_java
from tests.bench.forwarding import measure_forwarding
from tests.bench.result import Run
from tests.bench.rig import BenchFailed, NotHere, Rig

_HERE: Final = Path(__file__).parent
_PROGRAM: Final = "Deduplicate"
_JAVA_OPTIONS: Final = ("-Xmx1g",)
_COMPILE_TIMEOUT_S: Final = 120


async def measure_kafka_streams(rig: Rig, *, batch: int, events: int) -> Run:
    """Drain a topic of single events or of records of `batch`; the rate is of input events, by append time.

    Raises:
        NotHere: there is no Java compiler, or the jars cannot be had.
    """
    command = _command(rig)
    kind: Final = "events" if batch == 1 else "bare-batches"
    return await measure_forwarding(rig, command, kind=kind, events=events, batch=max(batch, 100))


def _command(rig: Rig) -> list[str]:
    """How the program is started; it is compiled at the first call."""
    try:
        java = find_java().executable
        compiler = shutil.which("javac", path=str(java.resolve().parent)) or shutil.which("javac")
        if compiler is None:
            raise NotHere("there is no javac: it takes a JDK")
        rig.say("fetching the jars of Kafka Streams")
        jars = fetch_jars(cache_folder(rig.folder), read_lock(_HERE / "kafka-streams-jars.lock"))
    except (JavaError, JarError) as error:
        raise NotHere(str(error)) from error
    classes = rig.folder / "kafka-streams"
    class_path = os.pathsep.join(map(str, [classes, *jars]))
    if not classes.exists():
        rig.say(f"compiling {_PROGRAM}.java")
        command = [compiler, "-nowarn", "-cp", class_path, "-d", str(classes), str(_HERE / f"{_PROGRAM}.java")]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S)
        if done.returncode:
            raise BenchFailed(f"{_PROGRAM}.java does not compile: {done.stderr[-500:]}")
    return [str(java), *_JAVA_OPTIONS, "-cp", class_path, _PROGRAM]
