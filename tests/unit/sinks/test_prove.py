"""`meterproof prove` and `check`: a proof holds as it was written; with any byte changed it does not."""

import hashlib
import shutil
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproof_proofs import ProofError
from meterproof_proofs.commands.check import main as check
from meterproof_proofs.event_proof import EventProof, canonical_signatures, read_signatures, signed_bytes
from meterproof_proofs.note import Signer, Verifier
from meterproof_proofs.producer_key import ProducerKey
from meterproof_proofs.tlog_proof import TlogProof
from meterproof_proofs.tree import leaf_hash
from meterproof_schemas import batch
from meterproof_schemas.event import entry_of
from meterproof_schemas.records_tree import records_origin
from meterproof_sinks.audit_folder import log_folder_name
from meterproof_sinks.commands.prove import main as prove
from tests.builders import make_batch, make_event, make_key, make_registry_file
from tests.log_builder import LogBuilder, make_log
from tests.published_log import SEED, publish, vkey_of

REFUSED = make_event("late", subject="agent-0", time_ms=0)


def _log() -> LogBuilder:
    log = make_log()
    lines = [make_event("twice", source="gateway/chat", subject=log.agent, customer="acme", time_ms=log.clock_ms)]
    lines.append(make_event("twice", source="gateway/mcp", subject=log.agent, customer="acme", time_ms=log.clock_ms))
    log.batch([*lines, *log.events(300)])
    log.clock_ms += 1_000
    log.source(make_batch(log.events(2), log.key, root="00" * 32, sequence=99))
    return log


LOG = _log()
PUBLIC_KEY = bytes(LOG.key.signing_key.verify_key)
VERIFIER = Verifier.parse(vkey_of(LOG))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    publish(data / "audit", LOG)
    (data / "log.vkey").write_text(vkey_of(LOG) + "\n")
    (data / "producer.key").write_text((LOG.key.entry.public_key or "") + "\n")
    (data / "refused.json").write_bytes(REFUSED + b"\n")
    return data


@pytest.fixture
def data(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "data"))


def proof_of(data: Path, *arguments: str) -> Path:
    out = data / "a.proof"
    assert prove([*arguments, "--data", str(data), "--out", str(out)]) == 0
    return out


def digest_of_refused_batch() -> str:
    return entry_of(LOG.batches[-1]).hex()


CASES = {
    "accepted": (["e4"], "accepted"),
    "accepted, in a large batch": (["e200"], "accepted"),
    "refused, with its line": (["--line", "refused.json"], "too_late"),
    "refused, by its digest": (["--digest", entry_of(REFUSED).hex()], "too_late"),
    "a batch refused as a whole": (["--digest", digest_of_refused_batch()], "bad_root"),
    "a batch that nobody vouched for": (["--digest", entry_of(b"not a batch\n").hex()], "malformed_batch"),
}


def arguments_of(case: str, data: Path) -> list[str]:
    return [str(data / one) if one == "refused.json" else one for one in CASES[case][0]]


@pytest.mark.parametrize("case", CASES)
def test_a_proof_holds_and_says_what_it_shows(case: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = proof_of(data, *arguments_of(case, data))
    capsys.readouterr()
    keys = ["--vkey", str(data / "log.vkey"), "--producer-key", str(data / "producer.key")]
    assert check([str(file), *keys, "--json"]) == 0
    said = orjson.loads(capsys.readouterr().out)
    assert said["verdict"] == CASES[case][1]
    assert said["log"] == (LOG.origin if said["verdict"] == "accepted" else records_origin(LOG.origin))
    assert said["producer"] == (None if case == "a batch that nobody vouched for" else "gateway")
    assert said["signed_by"] == ([] if said["producer"] is None else [LOG.key.key_id])
    assert check([str(file), *keys, "--origin", LOG.origin]) == 0
    assert capsys.readouterr().out.startswith("true: ")
    assert EventProof.parse(file.read_bytes()).format() == file.read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_any_change_of_any_byte_is_found(case: str, data: Path) -> None:
    """A bit of every byte flipped, every byte taken out; the file cut off anywhere, and prolonged."""
    good = proof_of(data, *arguments_of(case, data)).read_bytes()
    keys = [ProducerKey(PUBLIC_KEY)]

    def holds(content: bytes) -> bool:
        try:
            EventProof.parse(content).verify([VERIFIER], producer_keys=keys)
        except ProofError:
            return False
        return True

    assert holds(good)
    wrong: set[bytes] = {good[:at] for at in range(len(good))} | {good + b"\n", good + b"x"}
    for at, byte in enumerate(good):
        before, after = good[:at], good[at + 1 :]
        wrong |= {before + bytes([byte ^ (1 << at % 8)]) + after, before + after}
    survivors = [content for content in wrong - {good} if holds(content)]
    assert not survivors


@pytest.fixture(scope="module")
def proofs(written: Path) -> list[bytes]:
    return [proof_of(written, *arguments_of(case, written)).read_bytes() for case in CASES]


@given(data=st.data())
def test_what_the_parser_accepts_is_what_it_writes(proofs: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(proofs)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        more = st.binary(max_size=2) | st.sampled_from([b"\n", b"\r", b" ", b"0", b"batch-index 0\n", b"\n\n"])
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(more)
    try:
        parsed = EventProof.parse(bytes(content))
    except ProofError:
        return
    assert parsed.format() == bytes(content)


def test_the_proof_of_an_accepted_event_holds_no_other_event(data: Path) -> None:
    content = proof_of(data, "e4").read_bytes()
    others = [line for _, record in LOG.records for line in record.lines if b'"e4"' not in line]
    assert len(others) > 300
    assert b'"e4"' in content
    for line in others:
        assert line not in content
        assert entry_of(line).hex().encode() not in content
        assert orjson.loads(line)["id"].encode() not in content.replace(b"e4", b"")[:200]


def test_its_second_half_is_a_tlog_proof(data: Path) -> None:
    whole = proof_of(data, "e4").read_bytes()
    alone = proof_of(data, "e4", "--tlog-proof").read_bytes()
    assert whole.partition(b"\n\n")[2] == alone
    line = next(line for _, record in LOG.records for line in record.lines if b'"id":"e4"' in line)
    TlogProof.parse(alone).verify(leaf_hash(entry_of(line)), [VERIFIER], origin=LOG.origin)


def test_an_id_of_two_sources_asks_which(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prove(["twice", "--data", str(data)]) == 1
    said = capsys.readouterr().err
    assert "--source gateway/chat" in said
    assert "--source gateway/mcp" in said
    for source in ("gateway/chat", "gateway/mcp"):
        content = proof_of(data, "twice", "--source", source).read_bytes()
        assert f'"source":"{source}"'.encode() in content
    assert prove(["twice", "--source", "nobody", "--data", str(data)]) == 1


def test_what_cannot_be_proved_says_why(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prove(["late", "--data", str(data)]) == 1
    assert "--line FILE" in capsys.readouterr().err
    assert prove(["--digest", "00" * 32, "--data", str(data)]) == 1
    assert "did not arrive" in capsys.readouterr().err
    assert prove(["--digest", "xyz", "--data", str(data)]) == 2
    assert prove(["--data", str(data)]) == 2
    assert prove(["e4", "--digest", "00" * 32, "--data", str(data)]) == 2
    assert prove(["e4", "--data", str(data / "nowhere")]) == 2
    assert prove(["e4", "--data", str(data), "--json"]) == 2
    capsys.readouterr()
    tlog = data / "audit" / log_folder_name(LOG.origin) / "tlog"
    (tlog / "tile/0/000").write_bytes(bytes(256 * 32))
    assert prove(["e4", "--data", str(data)]) == 1
    assert "run meterproof verify" in capsys.readouterr().err
    shutil.rmtree(tlog)
    assert prove(["e4", "--data", str(data)]) == 1
    assert "no signed checkpoint" in capsys.readouterr().err


def test_what_no_checkpoint_covers_is_not_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path / "audit", LOG, records=4)
    assert prove(["e4", "--data", str(tmp_path), "--out", str(tmp_path / "a")]) == 0
    assert prove(["e9", "--data", str(tmp_path)]) == 1
    assert "try again when the next one is signed" in capsys.readouterr().err


def test_other_keys_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(proof_of(data, "e4"))
    mine, theirs = vkey_of(LOG), Signer(LOG.origin, bytes(32)).verifier.vkey
    assert check([file, "--vkey", mine]) == 0
    assert "not checked" in capsys.readouterr().out
    assert check([file, "--vkey", theirs]) == 1
    assert check([file, "--vkey", mine, "--producer-key", "A" * 43 + "="]) == 1
    assert "no key given of producer 'gateway'" in capsys.readouterr().err
    assert check([file, "--vkey", mine, "--origin", "another"]) == 1
    assert check([file, "--vkey", "nowhere.vkey"]) == 2
    assert check([file, "--vkey", mine, "--producer-key", "nowhere"]) == 2
    assert check(["nowhere", "--vkey", mine]) == 2


def test_a_key_of_another_producer_of_the_registry_does_not_count(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, registry = str(proof_of(data, "e4")), data / "registry.json"
    given = [file, "--vkey", vkey_of(LOG), "--producer-key", str(registry)]
    registry.write_bytes(make_registry_file(LOG.key))
    assert check(given) == 0
    registry.write_bytes(make_registry_file(make_key("gateway", producer="somebody-else")))
    assert check(given) == 1
    assert "no key given of producer 'gateway'" in capsys.readouterr().err
    registry.write_text('{"keys": 7}')
    assert check(given) == 2


def test_a_key_counts_when_the_registry_says_that_it_is_valid(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, registry = proof_of(data, "e4"), data / "registry.json"
    given = ["--vkey", vkey_of(LOG), "--producer-key", str(registry)]
    sent_at = orjson.loads(EventProof.parse(file.read_bytes()).carried[0])["sent_at"]  # type: ignore[index]
    earlier, later = sent_at.replace("20", "19", 1), sent_at.replace("20", "21", 1)

    def outcome(file: Path, **dates: str) -> tuple[int, str]:
        document = orjson.loads(make_registry_file(LOG.key))
        document["keys"][0] |= dates
        registry.write_bytes(orjson.dumps(document))
        return check([str(file), *given]), capsys.readouterr().err

    for dates in ({}, {"valid_from": sent_at}, {"valid_from": earlier, "valid_until": later}, {"revoked_at": later}):
        assert outcome(file, **dates) == (0, "")
    for dates, said in (
        ({"valid_from": later}, "it is valid from"),
        ({"valid_from": earlier, "valid_until": sent_at}, "it was valid until"),
        ({"revoked_at": sent_at}, "it was revoked at"),
        ({"revoked_at": "yesterday"}, "is not a time"),
    ):
        code, fault = outcome(file, **dates)
        assert (code, said in fault) == (1, True), fault
    refused = proof_of(data, "--digest", entry_of(REFUSED).hex())
    assert outcome(refused, revoked_at=sent_at) == (0, ""), "why it was refused is what is proved"


def test_a_proof_of_one_thing_shows_no_other(data: Path) -> None:
    """Parts of two genuine proofs put together prove nothing."""
    accepted = EventProof.parse(proof_of(data, "e4").read_bytes())
    refused = EventProof.parse(proof_of(data, "--line", str(data / "refused.json")).read_bytes())
    mixed = [
        EventProof("event", accepted.content, refused.carried, refused.index, refused.path, refused.record_header,
                   refused.tlog_proof),
        EventProof("event", accepted.content, accepted.carried, accepted.index, accepted.path, None,
                   refused.tlog_proof),
        EventProof("event", refused.content, refused.carried, refused.index, refused.path, None,
                   accepted.tlog_proof),
        EventProof("event", accepted.content, accepted.carried, 1, accepted.path, None, accepted.tlog_proof),
    ]  # fmt: skip
    for proof in mixed:
        with pytest.raises(ProofError):
            proof.verify([VERIFIER], producer_keys=[ProducerKey(PUBLIC_KEY)])


def test_signatures_that_a_producer_spelled_in_its_own_way(tmp_path: Path) -> None:
    """No signature covers their spelling: the proof has the one way, and the signatures in it are the same."""
    log = LogBuilder()
    header_line, signatures_line, *lines = make_batch(log.events(3), log.key).split(b"\n")
    spelled = signatures_line.replace(b'":', b'": ').replace(b'{"key_id"', b' { "key_id"')
    assert log.source(b"\n".join([header_line, spelled, *lines])).header.accepted == 3
    publish(tmp_path / "audit", log)
    proof = EventProof.parse(proof_of(tmp_path, "e1").read_bytes())
    assert proof.carried == (header_line, signatures_line)
    proved = proof.verify([Verifier.parse(vkey_of(log))], producer_keys=[ProducerKey(PUBLIC_KEY)])
    assert proved.signed_by == (log.key.key_id,)


def test_what_it_prints_commands_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogBuilder()
    log.batch([make_event("e0", subject=log.agent, data={"note": "\x1b[2J\u202e\x07"}, time_ms=log.clock_ms)])
    publish(tmp_path / "audit", log)
    file = proof_of(tmp_path, "e0")
    capsys.readouterr()
    assert check([str(file), "--vkey", vkey_of(log)]) == 0
    assert all(character.isprintable() or character == "\n" for character in capsys.readouterr().out)


def test_the_proofs_know_what_producers_sign() -> None:
    """`meterproof_proofs` imports nothing of ours, so it says again what a batch's signature covers."""
    value = LOG.batches[0]
    header_line, signatures_line = value.split(b"\n")[:2]
    assert signed_bytes(header_line) == batch.signed_bytes(header_line)
    assert canonical_signatures(read_signatures(signatures_line)) == signatures_line
    assert {len(SEED), len(PUBLIC_KEY)} == {32}


def test_proofs_show_that_a_producers_series_has_no_gap(tmp_path: Path) -> None:
    """One of each batch of the series: each header that the producer signed names the one before.

    Of a batch whose events all count it is an event's proof, of others that of a verdict: the log proves both.
    """
    log = LogBuilder()
    events = log.events(3)
    log.clock_ms += 1_000
    headers: list[bytes] = []
    for lines in ([events[0]], [events[0]], [events[1], REFUSED], [events[2]]):
        previous = hashlib.sha256(headers[-1]).hexdigest() if headers else None
        value = make_batch(lines, log.key, sequence=len(headers), previous=previous)
        headers.append(value.split(b"\n")[0])
        log.source(value)
    publish(tmp_path / "audit", log)

    def header_of(*what: str) -> bytes:
        proof = EventProof.parse(proof_of(tmp_path, *what).read_bytes())
        proved = proof.verify([Verifier.parse(vkey_of(log))], producer_keys=[ProducerKey(PUBLIC_KEY)])
        assert (proved.producer, proved.signed_by) == ("gateway", (log.key.key_id,))
        assert proof.carried is not None
        return proof.carried[0]

    refused = ("--digest", entry_of(REFUSED).hex())
    shown = [header_of("e0"), header_of(*refused), header_of("e2")]
    assert shown == [headers[0], headers[2], headers[3]]

    def follows(header: bytes, before: bytes) -> bool:
        fields, earlier = orjson.loads(header), orjson.loads(before)
        same = all(fields[name] == earlier[name] for name in ("producer", "instance", "partition"))
        linked = fields["previous"] == hashlib.sha256(before).hexdigest()
        return bool(same and linked and fields["sequence"] == earlier["sequence"] + 1)

    assert follows(shown[2], shown[1])
    assert not follows(shown[1], shown[0]), "the batch between them, which brought nothing new, was left out"
