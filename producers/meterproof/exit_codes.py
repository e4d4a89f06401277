"""Exit codes of the workers, for supervisors and people. Any code may be answered by starting the worker again.

| code | meaning | started again at once |
|---|---|---|
| 0 | stopped as asked | - |
| 1 | could not start: a file or topic is missing or faulty, Kafka did not answer for long | when that is put right |
| 2 | wrong usage | no |
| 70 | unexpected error; nothing was acknowledged after it | goes on where its output ends |
| 75 | cannot go on now: another writer (`fenced`, a lock), Kafka or a store is away | goes on where its output ends |
| 78 | stopped for a person: `log_diverged`, `source_diverged` or `source_lost` | stops again until a person has acted |
"""

from typing import Final

from meterproof.kafka.errors import KafkaProblem
from meterproof_schemas.errors import StageStopped
from meterproof_schemas.reasons import StopReason

CLEAN: Final = 0
NOT_STARTED: Final = 1
UNEXPECTED: Final = 70
TRY_AGAIN: Final = 75
STOPPED: Final = 78


def exit_code_of(error: BaseException) -> int:
    """The exit code of a worker that ends because of an error while it runs."""
    if isinstance(error, StageStopped):
        return TRY_AGAIN if error.stop_reason is StopReason.FENCED else STOPPED
    return TRY_AGAIN if isinstance(error, KafkaProblem) and error.retriable else UNEXPECTED
