# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib>=3.10"]
# ///
"""Draw the dashboards of `sinks/dashboards/` as pictures, from a deployment's data, without Grafana.

`python docs/dashboards/draw.py DATA FOLDER` reads each dashboard file, asks each panel's SQL of the deployment in DATA
by `meterproof query`, and draws panels where the file places them. So a picture shows what the file asks and what the
data answers; how Grafana would paint it is not shown. Needs matplotlib, which nothing else here does.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import dates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

DASHBOARDS = Path(__file__).parents[2] / "sinks" / "dashboards"
TIME_FILTER = re.compile(r"\$__timeFilter\((\w+)\)")
COLUMNS = 24
"""Grafana's grid is this wide."""
WIDTH_INCHES = 12
ROW_INCHES = 0.27
ROWS_SHOWN = 7
SERIES_SHOWN = 8
CELL_LENGTH = 44


def shortened(text: str) -> str:
    """A cell's text, without its middle if it is too long: names of logs differ at their ends."""
    half = CELL_LENGTH // 2
    return text if len(text) <= CELL_LENGTH else f"{text[: half - 1]}…{text[-half:]}"


def answer(sql: str, data: Path) -> list[dict[str, object]]:
    """The rows of a panel's query over all time."""
    everything = TIME_FILTER.sub(r"\1 >= toDateTime(0) AND \1 <= toDateTime(4102444800)", sql)
    command = ["meterproof", "query", everything, "--format", "json", "--data", str(data)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def draw_series(axes: Axes, rows: list[dict[str, object]]) -> None:
    """Lines over time, the largest first."""
    value = next((name for name in (rows[0] if rows else {}) if name not in {"time", "series"}), "")
    if not rows:
        draw_table(axes, rows)
        return
    series = defaultdict(list)
    for row in rows:
        series[row["series"]].append((datetime.fromisoformat(row["time"]), float(row[value])))
    for name in sorted(series, key=lambda name: -sum(at for _, at in series[name]))[:SERIES_SHOWN]:
        points = sorted(series[name])
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=name or "(none)")
    axes.set_ylabel(value, fontsize=7)
    axes.tick_params(labelsize=6)
    axes.xaxis.get_offset_text().set_fontsize(6)
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.legend(fontsize=6, loc="upper left", framealpha=0.6)


def draw_table(axes: Axes, rows: list[dict[str, object]]) -> None:
    """The first rows, as they are spelled."""
    axes.axis("off")
    if not rows:
        axes.text(0.5, 0.5, "no rows", ha="center", va="center", fontsize=8, color="grey")
        return
    cells = [[shortened(str(value)) for value in row.values()] for row in rows[:ROWS_SHOWN]]
    lengths = [max(map(len, column)) + 2 for column in zip(list(rows[0]), *cells, strict=True)]
    widths = [length / sum(lengths) for length in lengths]
    table = axes.table(cells, colLabels=list(rows[0]), colWidths=widths, cellLoc="left", loc="upper center")
    table.auto_set_font_size(False)
    table.set_fontsize(6)
    for (row, _), cell in table.get_celld().items():
        cell.set_linewidth(0.3)
        cell.set_facecolor("#eef1f5" if row == 0 else "white")


def draw(file: Path, data: Path, folder: Path) -> None:
    """One dashboard as a picture."""
    dashboard = json.loads(file.read_text("utf-8"))
    panels = dashboard["panels"]
    rows_high = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) + 2
    figure = plt.figure(figsize=(WIDTH_INCHES, rows_high * ROW_INCHES))
    figure.text(0.01, 1 - 0.6 / rows_high, dashboard["title"], fontsize=11)
    for panel in panels:
        at = panel["gridPos"]
        # Room for the title above, for the marks of the axes below and at the left.
        left, width = (at["x"] + 1) / COLUMNS, (at["w"] - 1.3) / COLUMNS
        bottom, height = 1 - (at["y"] + at["h"] + 0.5) / rows_high, (at["h"] - 2) / rows_high
        axes = figure.add_axes((left, bottom, width, height))
        axes.set_title(panel["title"], fontsize=8, loc="left", fontweight="bold")
        rows = answer(panel["targets"][0]["rawSql"], data)
        (draw_series if panel["type"] == "timeseries" else draw_table)(axes, rows)
    figure.savefig(folder / f"{file.stem}.png", dpi=80)
    plt.close(figure)


def main() -> int:
    """Draw them all."""
    if len(sys.argv) != 3:
        sys.stderr.write("usage: python docs/dashboards/draw.py DATA FOLDER\n")
        return 2
    for file in sorted(DASHBOARDS.glob("*.json")):
        draw(file, Path(sys.argv[1]), Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
