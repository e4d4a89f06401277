"""Counts a replayed trace again, from the trace and from what the pipeline left behind, sharing no code with it.

    python recount.py TRACE.csv DATA_DIR BUDGET_STATE.jsonl RUNS

Uses csv, hashlib, fractions and SQL only. RUNS is how often the whole trace was replayed under different ids. Prints
one JSON object; exits 0 if nothing differs.
"""

import base64
import csv
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from chdb import session

MODELS = (("gpt-4o", "openai"), ("claude-sonnet", "anthropic"), ("llama-70b", "self-hosted"))


def root_of(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


def expected(trace: Path, book: dict[str, Any], runs: int) -> dict[str, Any]:
    """Per agent: events, tokens and spend, straight from the trace and the price book."""
    prices: dict[tuple[str, str, str], Fraction] = {}
    for price in book["prices"]:
        unit = Fraction(price["amount"]) / int(price.get("per", "1"))
        prices.setdefault((price["meter"], price["provider"], price["model"]), unit)
    agents: defaultdict[str, list[Any]] = defaultdict(lambda: [0, 0, 0, Fraction(0)])
    with trace.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            agent = number % 16
            model, provider = MODELS[agent % 3]
            tokens = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            account = agents[f"agent-{agent:02}"]
            account[0] += runs
            account[1] += runs * tokens[0]
            account[2] += runs * tokens[1]
            account[3] += runs * (
                tokens[0] * prices["input_tokens", provider, model]
                + tokens[1] * prices["output_tokens", provider, model]
            )
    return dict(agents)


def from_clickhouse(folder: Path) -> dict[str, Any]:
    """Per agent, by SQL over the view that analysts use."""
    opened: Any = session.Session(str(folder))  # type: ignore[no-untyped-call]
    rows = opened.query(
        "SELECT agent, count(), toString(sum(usage['input_tokens'])), toString(sum(usage['output_tokens'])), "
        "toString(sum(cost)) FROM meterproof.usage GROUP BY agent ORDER BY agent",
        "JSONCompactEachRowWithNames",
    )
    opened.close()
    lines = [json.loads(line) for line in str(rows).splitlines()[1:]]
    return {
        agent: [int(events), int(Fraction(inputs)), int(Fraction(outputs)), Fraction(cost)]
        for agent, events, inputs, outputs, cost in lines
    }


def from_audit(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Per agent from the JSONL lines; and per log: lines, and whether their root is the one in its checkpoint."""
    agents: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    logs = {}
    for log in sorted(path.parent for path in folder.glob("*/checkpoint")):
        lines = [
            line
            for segment in sorted(log.glob("[0-9]*.jsonl"))
            if not segment.name.endswith(".records.jsonl")
            for line in segment.read_bytes().split(b"\n")[:-1]
        ]
        for line in lines:
            event = json.loads(line)
            account = agents[event["subject"]]
            account[0] += 1
            account[1] += event["data"]["usage"]["input_tokens"]
            account[2] += event["data"]["usage"]["output_tokens"]
        root = root_of([hashlib.sha256(line).digest() for line in lines])
        _, size, signed_root = (log / "checkpoint").read_text().split("\n")[:3]
        logs[log.name] = {
            "lines": len(lines),
            "checkpoint_size": int(size),
            "root_is_signed": base64.b64encode(root).decode() == signed_root and int(size) == len(lines),
        }
    return dict(agents), logs


def from_budget_state(records: Path) -> dict[str, Fraction]:
    """Spend per agent: the highest position of each daily partial sum, added up."""
    newest: dict[tuple[str, str, str], tuple[int, Fraction]] = {}
    for line in records.read_text().splitlines():
        stored = json.loads(line)
        if stored.get("window") == "day":
            key = (stored["log"], stored["subject"], stored["start"])
            newest[key] = max(newest.get(key, (-1, Fraction(0))), (stored["position"], Fraction(stored["spend"])))
    spend: defaultdict[str, Fraction] = defaultdict(Fraction)
    for (_, subject, _), (_, amount) in newest.items():
        spend[subject] += amount
    return dict(spend)


def main(trace: str, data: str, budget_state: str, runs: str) -> int:
    """Compare everything with the trace."""
    folder = Path(data)
    truth = expected(Path(trace), json.loads((folder / "price-book.json").read_text()), int(runs))
    clickhouse = from_clickhouse(folder / "clickhouse")
    audit, logs = from_audit(folder / "audit")
    spend = from_budget_state(Path(budget_state))
    differences = {
        "clickhouse": sum(clickhouse.get(agent) != account for agent, account in truth.items())
        + len(clickhouse.keys() - truth),
        "audit": sum(audit.get(agent) != account[:3] for agent, account in truth.items()) + len(audit.keys() - truth),
        "budgets": sum(spend.get(agent) != account[3] for agent, account in truth.items()) + len(spend.keys() - truth),
        "roots": sum(not log["root_is_signed"] for log in logs.values()),
    }
    print(  # noqa: T201 - its output
        json.dumps(
            {
                "events": sum(account[0] for account in clickhouse.values()),
                "input_tokens": sum(account[1] for account in clickhouse.values()),
                "output_tokens": sum(account[2] for account in clickhouse.values()),
                "spend": str(float(sum(account[3] for account in clickhouse.values()))),
                "audit_lines": sum(log["lines"] for log in logs.values()),
                "logs": logs,
                "differences": differences,
            }
        )
    )
    return int(any(differences.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
