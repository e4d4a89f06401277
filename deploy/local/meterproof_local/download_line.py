"""What a person sees while the jars of Kafka are fetched."""

import sys

from meterproof_local.jars import Progress


def show_download(progress: Progress) -> None:
    """Say on stderr how far the jars are; nothing where they are all here already."""
    if progress.fetched == 0:
        return
    done = progress.jars == progress.jars_total
    if sys.stderr.isatty():
        end = "\n" if done else ""
        text = f"\r\x1b[K  jars of Kafka: {progress.bytes / 1e6:.1f} of {progress.bytes_total / 1e6:.1f} MB{end}"
    elif progress.jars == 1 or done:
        text = f"  jars of Kafka: {progress.bytes} of {progress.bytes_total} bytes\n"
    else:
        return
    sys.stderr.write(text)
    sys.stderr.flush()
