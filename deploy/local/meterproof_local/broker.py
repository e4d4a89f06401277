"""One real Apache Kafka on this machine: KRaft, one node, in a folder of its own."""

import base64
import fcntl
import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from meterproof_local.child import Child
from meterproof_local.errors import BrokerError
from meterproof_local.formatted_folder import FormattedFolder
from meterproof_local.jars import Progress, cache_folder, fetch_jars
from meterproof_local.java import LAPTOP_OPTIONS, Java, find_java, java_environment
from meterproof_local.ports import choose_ports, is_free
from meterproof_local.properties import ONE_NODE, properties_text
from meterproof_local.readiness import ask_cluster
from meterproof_local.startup_cache import StartupCache

_HOST = "127.0.0.1"
_STOP_PATIENCE_S = 10.0
_RECORDING_PATIENCE_S = 30.0
_PORT_ATTEMPTS = 5
_START_TIMEOUT_S = 60.0
"""How long a start may take without the jars."""
_POLL_INTERVAL_S = 0.05
_SHOWN_LINES = 20
_ADDRESS_IN_USE = "Address already in use"
_FORMAT = ("kafka.tools.StorageTool", "format", "--standalone", "-c", "server.properties")

_LOG4J2 = """\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = logs/kafka.log
appender.file.filePattern = logs/kafka.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX} %-5p %c{1}: %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 20MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 1
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %-5p %c{1}: %m%n%ex{8}
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
rootLogger.appenderRef.console.ref = console
rootLogger.appenderRef.console.level = error
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
"""


class LocalBroker:
    """Apache Kafka as a child process on 127.0.0.1.

    Promises: the data folder belongs to one broker at a time; ports and records survive `kill` and `restart`, and a
    later LocalBroker on the same folder finds them again; the broker never outlives the process that started it;
    when `start` returns, the broker answers clients.

    Lives from `start` (or `with`) to `close`. `start` and `restart` must be called from the main thread and block
    for 1 to 4 s (longer when the jars are to be fetched).

    The data folder holds `kafka/` (records), `logs/kafka.log` (rolling, 20 MB × 2), `logs/java.log` (output of the
    newest start and every error since), `server.properties`, `ports.json`, `lock` and `tmp/`.
    """

    def __init__(
        self,
        data: Path,
        *,
        properties: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
        java_options: Sequence[str] = LAPTOP_OPTIONS,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Describe a broker; nothing happens before `start`.

        Args:
            data: its folder; created if missing.
            properties: added to server.properties, or replacing what stands there by default.
            format_options: of Kafka's storage tool when the folder is new, like `--add-scram` for users.
            java_options: heap and compiler; `java.BENCHMARK_OPTIONS` for benchmarks.
            on_progress: told about the jars, see `jars.fetch_jars`.

        """
        self._data = data.absolute()
        self._properties = dict(properties or {})
        self._format_options = tuple(format_options)
        self._java_options = tuple(java_options)
        self._on_progress = on_progress
        self._lock: IO[bytes] | None = None
        self._child: Child | None = None
        self._startup_cache: StartupCache | None = None
        self._ports: tuple[int, int] | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients, plaintext; raises `BrokerError` before the first start."""
        if self._ports is None:
            raise BrokerError("the broker has no port before its first start")
        return f"{_HOST}:{self._ports[0]}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def poll(self) -> int | None:
        """Return the exit code once it has ended, negative for a signal; None while it runs and before its start."""
        return self._child.poll() if self._child is not None else None

    def start(self) -> Self:
        """Start it and return when it is ready; does nothing if it runs.

        Raises:
            JavaError: no usable Java.
            JarError: the jars cannot be had.
            BrokerError: the folder is in use, or the broker ended or did not answer in time.
            RuntimeError: not called from the main thread.

        """
        if self.pid is not None:
            return self
        self._take_lock()
        try:
            java = find_java()
            cache = cache_folder(self._data)
            jars = fetch_jars(cache, on_progress=self._on_progress)
            self._prepare_folder()
            command = self._java_command(java, cache, jars)
            for attempt in range(_PORT_ATTEMPTS):
                ports = self._configure(new_ports=attempt > 0)
                cluster_id = self._format(command, cache, jars)
                if self._start_once(command, cluster_id, ports):
                    self._ports = ports
                    return self
            raise BrokerError(f"{_PORT_ATTEMPTS} times other programs took the ports that were free just before")
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Stop it with SIGTERM, after 10 s with SIGKILL; the folder stays reserved for `restart`."""
        if self._child is not None:
            recording = self._startup_cache is not None and self._startup_cache.is_recording
            self._ended(self._child.stop(_RECORDING_PATIENCE_S if recording else _STOP_PATIENCE_S))

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._child is not None:
            self._ended(self._child.kill())

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same records and ports; returns when it is ready."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers, as with a stalled machine."""
        if self._child is not None:
            self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it and give the folder free; harmless when repeated."""
        self.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def last_words(self, what: str) -> str:
        """Return an error message: what happened, and the last 20 lines that Java printed."""
        lines = [line for line in self._output() if line.strip()][-_SHOWN_LINES:]
        text = "\n".join(f"  {line}" for line in lines) or "  (it printed nothing)"
        return f"{what}; more in {self._data / 'logs'}; its last words:\n{text}"

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _take_lock(self) -> None:
        """Reserve the folder. The broker inherits the lock, so that it holds for as long as either of us lives."""
        if self._lock is not None:
            return
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            lock = (self._data / "lock").open("ab")
        except OSError as error:
            raise BrokerError(f"cannot write into the data folder {self._data}: {error}; choose another") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise BrokerError(
                f"another broker uses {self._data}: stop it (Ctrl-C where it runs), or choose another folder"
            ) from error
        self._lock = lock

    def _java_command(self, java: Java, cache: Path, jars: Sequence[Path]) -> list[str]:
        if os.pathsep in str(cache):
            raise BrokerError(
                f"Java cannot find jars in {cache}: set METERPROOF_CACHE to a folder without {os.pathsep!r} in its path"
            )
        options = [*self._java_options, *java.options()]
        self._startup_cache = StartupCache(cache, java, options, jars, self._data / "tmp")
        return [
            str(java.executable),
            *options,
            *self._startup_cache.options(),
            f"-Djava.io.tmpdir={self._data / 'tmp'}",
            f"-Dlog4j2.configurationFile={(self._data / 'log4j2.properties').as_uri()}",
            "-Dlog4j2.disable.jmx=true",
            "-cp",
            os.pathsep.join(map(str, jars)),
        ]

    def _prepare_folder(self) -> None:
        (self._data / "logs").mkdir(exist_ok=True)
        shutil.rmtree(self._data / "tmp", ignore_errors=True)  # native libraries that a killed broker left behind
        (self._data / "tmp").mkdir()
        (self._data / "log4j2.properties").write_text(_LOG4J2, "ascii")

    def _configure(self, *, new_ports: bool) -> tuple[int, int]:
        """Write server.properties, with the ports of the last run if they may be kept and are free."""
        kept = self._data / "ports.json"
        ports = None if new_ports else _read_ports(kept)
        if ports is None or not all(map(is_free, ports)):
            broker_port, controller_port = choose_ports(2)
            ports = (broker_port, controller_port)
            temporary = kept.with_suffix(".new")
            temporary.write_text(json.dumps({"broker": ports[0], "controller": ports[1]}), "ascii")
            temporary.replace(kept)
        broker, controller = (f"{_HOST}:{port}" for port in ports)
        properties = {
            **ONE_NODE,
            "controller.quorum.bootstrap.servers": controller,
            "listeners": f"PLAIN://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAIN://{broker}",
            "log.dirs": "kafka",
            **self._properties,
        }
        (self._data / "server.properties").write_text(properties_text(properties), "ascii")
        return ports

    def _format(self, command: Sequence[str], cache: Path, jars: Sequence[Path]) -> str:
        """Format the folder if it is new; return its cluster id."""
        meta = self._data / "kafka" / "meta.properties"
        if not meta.exists():
            cluster_id = new_cluster_id()
            kept = FormattedFolder(cache, jars, (self._data / "server.properties").read_text("ascii"))
            # Options may be secrets, and what stands in a folder that lost its `meta.properties` is no other broker's.
            shared = not self._format_options and not meta.parent.exists()
            if not (shared and kept.copy_to(meta.parent, cluster_id)):
                self._format_anew(command, cluster_id)
                if shared:
                    kept.keep(meta.parent)
        for line in meta.read_text("ascii").splitlines():
            name, _, value = line.partition("=")
            if name == "cluster.id":
                return value
        raise BrokerError(f"{meta} names no cluster.id: delete {self._data} to start with an empty broker")

    def _format_anew(self, command: Sequence[str], cluster_id: str) -> None:
        """Have Kafka's own tool format the folder."""
        folder = self._data / "kafka"
        with (self._data / "logs" / "java.log").open("wb") as output:
            child = Child(
                [*command, *_FORMAT, "-t", cluster_id, *self._format_options],
                folder=self._data,
                environment=java_environment(),
                output=output,
                keep_open=self._inherited(),
            )
            code = child.wait(_START_TIMEOUT_S)
        if code != 0 or not (folder / "meta.properties").exists():
            raise BrokerError(self.last_words(f"could not format {folder} (exit code {code})"))

    def _start_once(self, command: Sequence[str], cluster_id: str, ports: tuple[int, int]) -> bool:
        """Start it on these ports; return False if another program was quicker to take one of them."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        recording_options = () if self._startup_cache is None else self._startup_cache.recording_options()
        with (self._data / "logs" / "java.log").open("wb") as output:
            self._child = child = Child(
                [command[0], *recording_options, *command[1:], "kafka.Kafka", "server.properties"],
                folder=self._data,
                environment=java_environment(),
                output=output,
                keep_open=self._inherited(),
            )
        while child.poll() is None:
            answer = ask_cluster(_HOST, ports[0])
            if answer is not None and answer.cluster_id == cluster_id and (_HOST, ports[0]) in answer.brokers:
                return True
            if time.monotonic() > deadline_s:
                child.kill()
                raise BrokerError(self.last_words(f"the broker was not ready within {_START_TIMEOUT_S:g} s"))
            time.sleep(_POLL_INTERVAL_S)
        if any(_ADDRESS_IN_USE in line for line in self._output()):
            return False
        raise BrokerError(self.last_words(f"the broker ended while it started (exit code {child.poll()})"))

    def _ended(self, code: int) -> None:
        if self._startup_cache is not None:
            self._startup_cache.ended(code)
            self._startup_cache = None

    def _inherited(self) -> list[int]:
        return [] if self._lock is None else [self._lock.fileno()]

    def _output(self) -> list[str]:
        return (self._data / "logs" / "java.log").read_text("utf-8", "replace").splitlines()


def new_cluster_id(draw: Callable[[], uuid.UUID] = uuid.uuid4) -> str:
    """Return a random KRaft cluster id: a UUID in URL-safe base64.

    One that begins with "-" (1 in 64) is drawn again: Kafka's tools would take it for an option.
    """
    while (text := base64.urlsafe_b64encode(draw().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return text


def _read_ports(path: Path) -> tuple[int, int] | None:
    try:
        ports = json.loads(path.read_text("ascii"))
        return int(ports["broker"]), int(ports["controller"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
