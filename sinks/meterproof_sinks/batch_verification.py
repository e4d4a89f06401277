"""Verify a producer's batch as a log record carries it: for whom it was made, its signatures, its signed root."""

import hashlib
from collections.abc import Mapping

from pydantic import ValidationError

from meterproof_proofs.frontier import batch_root
from meterproof_proofs.tree_hashing import leaf_hashes
from meterproof_schemas.batch import BatchHeader, Signatures
from meterproof_schemas.errors import InvalidBatch
from meterproof_schemas.log_record import Genesis, LogRecord, RecordHeader
from meterproof_sinks.audit_segment import StoredRecord
from meterproof_sinks.fault_location import fault_at, fault_in_header
from meterproof_sinks.verification_inputs import Producers
from meterproof_sinks.verification_report import LogReport


def verify_batch(
    stored: StoredRecord,
    record: LogRecord,
    leaves: list[bytes],
    *,
    genesis: Genesis | None,
    producers: Producers | None,
    report: LogReport,
) -> None:
    """Verify the batch that a record carries, and count in the report what was verified of it.

    Args:
        stored: the record as it was found.
        record: the same, decoded.
        leaves: leaf hashes of its lines.
        genesis: what the log's first record fixes.
        producers: the producers' keys; None to leave their signatures unchecked.
        report: of the log.

    Raises:
        DamagedAudit: something of it does not hold.
    """
    header = record.header
    header_line, signatures_line = record.carried or (b"", b"")
    report.batches += 1
    try:
        batch = BatchHeader.model_validate_json(header_line)
    except ValidationError as error:
        raise fault_at(stored, 2, "is not a batch's header") from error
    if genesis is None or (batch.audience, batch.topic, batch.partition) != (
        genesis.deployment,
        genesis.source_topic,
        genesis.partition,
    ):
        raise fault_at(stored, 2, "the batch was signed for another deployment, topic or partition than this log's")
    _verify_signatures(
        stored, batch, (header_line, signatures_line), header.append_ms, producers=producers, report=report
    )
    if header.reason is not None:
        report.batch_roots_unchecked += 1
    else:
        if _root_of_all_lines(header, batch.count, leaves) != batch.root:
            raise fault_at(stored, 2, "the signed root of the batch does not follow from its lines and refusals")
        report.batch_roots_verified += 1
        source = memoryview(stored.value)[len(record.header_line) + 1 :]
        if not (header.not_accepted or stored.erased) and (
            header.source is None or hashlib.sha256(source).hexdigest() != header.source.digest
        ):
            raise fault_in_header(stored, "its source digest is not that of the batch")


def _verify_signatures(
    stored: StoredRecord,
    batch: BatchHeader,
    carried: tuple[bytes, bytes],
    append_ms: int,
    *,
    producers: Producers | None,
    report: LogReport,
) -> None:
    if producers is None:
        report.signatures_unchecked += 1
        return
    header_line, signatures_line = carried
    try:
        signatures = Signatures.model_validate_json(signatures_line).signatures
    except ValidationError as error:
        raise fault_at(stored, 3, "is not a batch's signatures") from error
    checkable = [one for one in signatures if one.key_id not in producers.without_secret]
    if not checkable:
        report.signatures_unchecked += 1
        return
    try:
        keys = producers.registry.authorities(header_line, checkable, batch.producer, append_ms)
    except InvalidBatch as error:
        raise fault_at(stored, 3, f"producer {batch.producer!r}: {error}") from error
    if any(key.algorithm == "ed25519" for key in keys):
        report.signatures_verified += 1
    else:
        report.signatures_repudiable += 1


def _root_of_all_lines(header: RecordHeader, count: int, accepted: list[bytes]) -> str | None:
    """The root over all lines of a batch, the leaf hashes of the accepted ones given; None if they are not all told."""
    refused: Mapping[int, str] = {number: entry for number, _, entry in header.not_accepted}
    if len(refused) != len(header.not_accepted) or len(refused) + len(accepted) != count:
        return None
    if not refused:
        return batch_root(accepted).hex()
    kept = iter(accepted)
    leaves: list[bytes] = []
    for number in range(count):
        entry = refused.get(number)
        leaf = next(kept, None) if entry is None else leaf_hashes([bytes.fromhex(entry)])[0]
        if leaf is None:
            return None
        leaves.append(leaf)
    return batch_root(leaves).hex()
