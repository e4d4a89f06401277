"""Compare the manifests of sealed segments with what follows from their lines."""

from meterproof_sinks.audit_errors import DamagedAudit
from meterproof_sinks.audit_segment import Segment
from meterproof_sinks.segment_manifest import LogEnd, SegmentManifest, follow_manifest
from meterproof_sinks.segment_reader import lines_digests
from meterproof_sinks.segment_sealing import check_sealed, erasures_of


class ManifestVerification:
    """The manifests of one log, oldest first, beside a pass over its records. Lives for it."""

    def __init__(self) -> None:
        self.sealed = 0
        """Sealed segments that hold what their manifests state."""
        self._before: SegmentManifest | None = None

    def follow_given_up(self, segment: Segment) -> None:
        """Compare the manifest of a segment that was given up with the one before; its files are gone.

        Raises:
            DamagedAudit: it does not continue the one before.
            OSError: it cannot be read.
        """
        self._before = follow_manifest(segment, self._before)

    def follow(self, segment: Segment, end: LogEnd | None = None, lines: tuple[str, str] | None = None) -> None:
        """Compare a sealed segment with its manifest, and that with the one before.

        1. The manifest continues the one before. 2. The compressed files are those that it states. 3. So are their
        lines. 4. It states where the log is behind them.

        Args:
            segment: the next one.
            end: where the log is behind it, as its lines gave it; None if they were compared on an earlier run.
            lines: SHA-256 of its lines, of events and of records, if they are known.

        Raises:
            DamagedAudit: something is not as the manifest states it.
            OSError: a file cannot be read.

        """
        manifest = self._before = follow_manifest(segment, self._before)  # 1
        check_sealed(segment, manifest)  # 2
        if end is not None:
            self._compare(segment, manifest, end, lines or lines_digests(segment))  # 3, 4
        self.sealed += 1

    def _compare(self, segment: Segment, manifest: SegmentManifest, end: LogEnd, lines: tuple[str, str]) -> None:
        events, records = lines
        files = manifest.files
        if events not in [state.sha256 for state in (files.events, *erasures_of(segment))]:
            fault = f"states that the event lines have SHA-256 {files.events.sha256}; they have {events}"
        elif records != files.records.sha256:
            fault = f"states that the record lines have SHA-256 {files.records.sha256}; they have {records}"
        elif manifest.end != end:
            stated = next(name for name in LogEnd.model_fields if getattr(manifest.end, name) != getattr(end, name))
            due = getattr(end, stated)
            fault = f"end.{stated} is {getattr(manifest.end, stated)}, but {due} follows from the lines"
        else:
            return
        raise DamagedAudit(segment.manifest, 1, segment.first, fault)
