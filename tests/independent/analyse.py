"""What the shipped queries must answer, counted from the events themselves, sharing no code with the project.

    python analyse.py TRACE.jsonl PRICES.json

TRACE holds one event per line, in the order of the log. PRICES: {"prices": [[meter, model prefix, amount], …]}; the
first that fits a meter and a model applies. Uses json and fractions only; prints one JSON object, fractions as strings.
"""

import json
import sys
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def cost_of(event: dict[str, Any], prices: list[list[str]]) -> Fraction:
    """By the first price that fits each meter."""
    total = Fraction(0)
    for meter, quantity in event["data"]["usage"].items():
        for priced, prefix, amount in prices:
            if priced == meter and event["data"].get("model", "").startswith(prefix):
                total += Fraction(quantity) * Fraction(amount)
                break
    return total


def nearest(values: list[int], level: Fraction) -> int | None:
    """The value at a rank, counted from the smallest."""
    return sorted(values)[int(level * len(values))] if values else None


def failed(event: dict[str, Any]) -> bool:
    """Whether it says that it did not end well."""
    return str(event["data"].get("status", "ok")) != "ok"


def analyse(events: list[dict[str, Any]], prices: list[list[str]]) -> dict[str, Any]:
    """Everything that is compared."""
    costs = [cost_of(event, prices) for event in events]
    answer: dict[str, Any] = {"events": len(events), "spend": sum(costs, Fraction(0))}

    units = [sum((Fraction(quantity) for quantity in event["data"]["usage"].values()), Fraction(0)) for event in events]
    summary: dict[str, Any] = {"by_operation": {}, "by_agent": {}, "total_units": sum(units, Fraction(0))}
    for event, used in zip(events, units, strict=True):
        for table, name in (("by_operation", event["data"].get("operation", "")), ("by_agent", event["subject"])):
            counted = summary[table].setdefault(name, [0, Fraction(0)])
            counted[0] += 1
            counted[1] += used
    answer["summary"] = summary
    answer |= spend(events, costs)
    answer["latency"] = {name: latency(events, name) for name in answer["operations"]}
    answer["rates"] = rates(events)
    answer["dependencies"] = dependencies(events)
    order = sorted(range(len(events)), key=lambda number: (-costs[number], number))
    answer["dearest"] = [events[number]["id"] for number in order[:50]]
    answer["waste"] = waste(events, costs)
    return answer


def spend(events: list[dict[str, Any]], costs: list[Fraction]) -> dict[str, Any]:
    """By everything that spend is asked for by."""
    accounts: defaultdict[str, Fraction] = defaultdict(Fraction)
    sessions: defaultdict[str, Fraction] = defaultdict(Fraction)
    operations: defaultdict[str, Fraction] = defaultdict(Fraction)
    models: defaultdict[str, Fraction] = defaultdict(Fraction)
    hours: defaultdict[str, Fraction] = defaultdict(Fraction)
    days: defaultdict[str, Fraction] = defaultdict(Fraction)
    runs: defaultdict[str, Fraction] = defaultdict(Fraction)
    parents: dict[str, str] = {}
    for event, cost in zip(events, costs, strict=True):
        data = event["data"]
        tags = data.get("tags", {})
        accounts[f"agent/{event['subject']}"] += cost
        accounts[f"customer/{data['customer']}"] += cost
        for tag in ("team", "project", "cost centre"):
            accounts[f"{tag}/{tags.get(tag, '')}"] += cost
        operations[data.get("operation", "")] += cost
        hours[f"{event['time'][:13]}/{data['customer']}"] += cost
        days[f"{event['time'][:10]}/{event['subject']}"] += cost
        if "model" in data:
            models[f"{data['provider']}/{data['model']}"] += cost
        if "session" in data:
            sessions[data["session"]] += cost
        if "run" in data:
            runs[data["run"]] += cost
            parents[data["run"]] = max(parents.get(data["run"], ""), data.get("parent", ""))

    def with_children(run: str) -> Fraction:
        return runs[run] + sum((with_children(child) for child, up in parents.items() if up == run), Fraction(0))

    return {
        "accounts": accounts,
        "sessions": sessions,
        "operations": operations,
        "models": models,
        "hours": hours,
        "days": days,
        "runs": {run: [cost, with_children(run)] for run, cost in runs.items()},
    }


def latency(events: list[dict[str, Any]], operation: str) -> dict[str, Any]:
    """Percentiles and failures of one operation."""
    mine = [event for event in events if event["data"].get("operation", "") == operation]
    times = [event["data"]["latency"]["total_us"] for event in mine if "latency" in event["data"]]
    return {
        "p50": nearest(times, Fraction(1, 2)),
        "p95": nearest(times, Fraction(95, 100)),
        "p99": nearest(times, Fraction(99, 100)),
        "failed": sum(map(failed, mine)),
        "calls": len(mine),
    }


def rates(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Requests and tokens of each model in its busiest and its heaviest minute."""
    minutes: defaultdict[tuple[str, str], list[Any]] = defaultdict(lambda: [0, Fraction(0)])
    for event in events:
        data = event["data"]
        if "model" in data:
            minute = minutes[f"{data['provider']}/{data['model']}", event["time"][:16]]
            minute[0] += 1
            minute[1] += sum(Fraction(data["usage"].get(meter, 0)) for meter in TOKENS)
    highest: dict[str, Any] = {}
    for (model, _), (requests, tokens) in minutes.items():
        rate = highest.setdefault(model, [0, Fraction(0)])
        highest[model] = [max(rate[0], requests), max(rate[1], tokens)]
    return highest


def dependencies(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Calls and traces from caller to callee."""
    edges: dict[str, list[Any]] = {}
    for event in events:
        if "traceparent" in event["data"]:
            edge = edges.setdefault(f"{event['subject']} -> {event['source']}", [0, set()])
            edge[0] += 1
            edge[1].add(event["data"]["traceparent"].split("-")[1])
    return {edge: [calls, len(traces)] for edge, (calls, traces) in edges.items()}


def waste(events: list[dict[str, Any]], costs: list[Fraction]) -> dict[str, Any]:
    """Failed and repeated calls by agent and operation, with what they cost."""
    seen: set[str] = set()
    found: defaultdict[str, list[Any]] = defaultdict(lambda: [0, Fraction(0), 0, Fraction(0)])
    for event, cost in zip(events, costs, strict=True):
        data = event["data"]
        key = f"{event['subject']}/{data.get('operation', '')}"
        same = json.dumps(
            [
                [event["subject"], event["source"], data.get("operation"), data.get("provider"), data.get("model")],
                [data.get("session"), failed(event), event["time"][:16]],
                sorted((meter, str(Fraction(quantity))) for meter, quantity in data["usage"].items()),
            ]
        )
        if failed(event):
            found[key][0] += 1
            found[key][1] += cost
        elif same in seen:
            found[key][2] += 1
            found[key][3] += cost
        seen.add(same)
    return {key: counted for key, counted in found.items() if counted[0] + counted[2]}


def main(trace: str, prices: str) -> int:
    """Print the answers."""
    events = [json.loads(line) for line in Path(trace).read_bytes().splitlines()]
    print(json.dumps(analyse(events, json.loads(Path(prices).read_text())["prices"]), default=str))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
