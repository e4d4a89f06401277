"""What `meterproof prove` writes holds a proof that programs by others check: of an event, and of a refusal."""

from pathlib import Path

import pytest

from meterproof_proofs.event_proof import EventProof
from meterproof_proofs.note import Signer
from meterproof_sinks.commands.prove import main as prove
from tests.interop.tools import verdict
from tests.log_builder import LogBuilder, make_log
from tests.published_log import SEED, publish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # where it is the first, it builds the tools


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[LogBuilder, Path]:
    built = make_log()
    built.batch(1_000)
    folder = tmp_path_factory.mktemp("log")
    publish(folder / "audit", built)
    return built, folder


def refused_of(log: LogBuilder) -> str:
    return next(
        entry for _, record in log.records for _, why, entry in record.header.not_accepted if why != "duplicate"
    )


@pytest.mark.parametrize("what", ["accepted", "not accepted"])
def test_the_tlog_proof_inside_is_accepted_by_others_and_for_other_entries_refused(
    log: tuple[LogBuilder, Path], what: str
) -> None:
    built, folder = log
    asked = ["e500"] if what == "accepted" else ["--digest", refused_of(built)]
    origin = built.origin + ("" if what == "accepted" else "/records")
    whole, alone, vkey, entry = (folder / name for name in ("whole", "alone", "vkey", "entry"))
    assert prove([*asked, "--data", str(folder), "--out", str(whole)]) == 0
    assert prove([*asked, "--data", str(folder), "--out", str(alone), "--tlog-proof"]) == 0
    assert whole.read_bytes().partition(b"\n\n")[2] == alone.read_bytes()
    vkey.write_text(Signer(origin, SEED).verifier.vkey + "\n")
    entry.write_bytes(EventProof.parse(whole.read_bytes()).logged)
    assert verdict("verify-tlog-proof", vkey, alone, entry)[0] == 0
    entry.write_bytes(bytes(32))
    assert verdict("verify-tlog-proof", vkey, alone, entry)[0] == 1
