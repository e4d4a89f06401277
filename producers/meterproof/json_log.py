"""Logs of the workers: one JSON object per line on stderr. Never a payload, never a secret."""

import logging
import sys

import structlog


def set_up_logging(worker: str, instance: str) -> None:
    """Send our events and the libraries' warnings to stderr as JSON lines, each with worker and instance."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        lambda _logger, _method, event: {"worker": worker, "instance": instance} | dict(event),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # Below WARNING the libraries say nothing that an operator could use, and saying it costs a tenth of the throughput.
    for name in ("aiokafka", "faust", "mode", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
