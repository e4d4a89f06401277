"""Replace a deployment's log key without a moment in which its checkpoints cannot be verified.

1. `begin`: a new key is made, and `log.vkey` lists both. 2. The checkpointer, started again, signs with both. 3. All
who verify take the new `log.vkey`. 4. `finish`: once every log's largest checkpoint is signed by the new key, it alone
is left. The old one's public half is kept in `log.retired.vkey`, for checkpoints that somebody kept from before.
"""

import shlex
from typing import Final

from meterproof.deployment import DataFolder
from meterproof.durable_file import replace_durably
from meterproof.errors import MeterError
from meterproof.kafka.reader import PartitionReader
from meterproof.kafka.settings import KafkaSettings
from meterproof.log_key import LogKey, LogKeys
from meterproof_proofs.checkpoint import open_checkpoint
from meterproof_proofs.errors import ProofError
from meterproof_proofs.note import Verifier
from meterproof_schemas.checkpoint_record import CheckpointRecord, decode_checkpoint_record
from meterproof_schemas.errors import InvalidRecord
from meterproof_schemas.records_tree import records_origin
from meterproof_schemas.topics import Topic

RETIRED_FILE: Final = "log.retired.vkey"


class RotationRefused(MeterError):
    """The log key cannot be replaced now; the text says why and what to do."""


def begin(folder: DataFolder) -> None:
    """Make the next key, and list both in `log.vkey`. Made again after an interruption, it goes on.

    Raises:
        RotationRefused: the folder has no log key or no `log.vkey`.
        InvalidKey: a key file is faulty.
        OSError: a file cannot be written.
    """
    origins = _origins(folder)
    LogKey.load(folder.log_key)
    if not folder.next_log_key.exists():
        LogKey.generate().save(folder.next_log_key)
    replace_durably(folder.vkeys, LogKeys.load(folder.log_keys).verifier_keys(origins).encode())


async def finish(folder: DataFolder, kafka: KafkaSettings) -> None:
    """Let the next key be the only one. Made again after an interruption, it goes on.

    1. Make sure that the next key signed every log's largest checkpoint. 2. Keep the old key's public half. 3. Put the
    next key in its place: the old secret is gone. 4. List the new one alone.

    Raises:
        RotationRefused: no change of keys is under way, or a log's largest checkpoint lacks the next key's signature.
        KafkaProblem: `usage.checkpoints` cannot be read.
        InvalidKey, OSError: a file is faulty or cannot be written.
    """
    origins = _origins(folder)
    retired = folder.keys / RETIRED_FILE
    known = retired.read_text("utf-8") if retired.exists() else ""
    if folder.next_log_key.exists():
        await _must_have_signed_all(LogKeys.load([folder.next_log_key]), origins, kafka)  # 1
        lines = LogKeys.load([folder.log_key]).verifier_keys(origins)
        if lines not in known:
            replace_durably(retired, (known + lines).encode())  # 2
        folder.next_log_key.replace(folder.log_key)  # 3
    elif not set(known.splitlines()) & set(folder.vkeys.read_text("utf-8").splitlines()):
        raise RotationRefused(f"{folder.next_log_key} is not there: no change of keys is under way; begin one first")
    replace_durably(folder.vkeys, LogKeys.load([folder.log_key]).verifier_keys(origins).encode())  # 4


def _origins(folder: DataFolder) -> list[str]:
    """The logs that `log.vkey` has keys for, in its order."""
    try:
        lines = folder.vkeys.read_text("utf-8").splitlines()
        names = [Verifier.parse(line).name for line in lines if line and not line.startswith("#")]
    except FileNotFoundError:
        raise RotationRefused(
            f"{folder.vkeys} is not there; start the deployment once with "
            f"`meterproof up --data {shlex.quote(str(folder.root))}`"
        ) from None
    except (ProofError, UnicodeDecodeError) as error:
        raise RotationRefused(f"{folder.vkeys} is faulty: {error}") from error
    second = {records_origin(name) for name in names}
    return [name for name in dict.fromkeys(names) if name not in second]


async def _must_have_signed_all(keys: LogKeys, origins: list[str], kafka: KafkaSettings) -> None:
    largest: dict[str, CheckpointRecord] = {}
    async with PartitionReader(kafka, kafka.topic(Topic.CHECKPOINTS), 0) as reader:
        async for chunk in reader.read(*await reader.bounds()):
            for one in chunk:
                try:
                    record = decode_checkpoint_record(one.value)
                except InvalidRecord:
                    continue  # a genesis
                known = largest.get(record.header.origin)
                if known is None or _sizes(record) >= _sizes(known):
                    largest[record.header.origin] = record
    for origin in origins:
        found = largest.get(origin)
        if found is None:
            continue  # nothing was signed yet
        try:
            for name, note in ((origin, found.note), (records_origin(origin), found.records_note or b"")):
                open_checkpoint(note, [signer.verifier for signer in keys.signers(name)], origin=name)
        except ProofError as error:
            raise RotationRefused(
                f"the largest checkpoint of {origin}, at size {found.header.size}, is not signed by the next key "
                f"({error}). Start the checkpointer again so that it signs with both keys, and wait for a checkpoint"
            ) from error


def _sizes(record: CheckpointRecord) -> tuple[int, int]:
    return record.header.size, 0 if record.header.records is None else record.header.records.size
