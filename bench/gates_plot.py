"""The plot of gates.py: who takes healthy versions back, how long they take, and what bad ones cost."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#777777"  # read on white and on black
COLOURS = ("#228833", "#4477aa", "#66ccee", "#ccbb44", "#aa3377", "#ee6677")
LEAST_BAD = 1.0
USUAL = "healthy, 0.1 % errors"
Row = Mapping[str, Any]


def picture(rows: Sequence[Row]) -> str:
    """Return an SVG, the same for the same rows."""
    mpl.rcParams.update({"svg.hashsalt": "gates", "svg.fonttype": "none", "text.color": INK, "font.size": 9})
    mpl.rcParams.update({"axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK})
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    places = figure.subplot_mosaic([["back", "bad"], ["full", "bad"]], width_ratios=(1, 1.2), height_ratios=(7, 1.6))
    names = list(dict.fromkeys(row["decider"] for row in rows))
    healthy, failing = [row for row in rows if row["healthy"]], [row for row in rows if row["fails"]]
    usual = [row for row in healthy if row["scenario"] == USUAL]
    _bars(places["back"], healthy, names, [100 * row["rolled_back"] for row in healthy])
    places["back"].set_xlabel("healthy versions that are taken back, %")
    _bars(places["full"], usual, names, [row["full_s_median"] or 0.0 for row in usual])
    places["full"].set_xlabel("until a healthy version has all traffic, s")
    _bars(places["bad"], failing, names, [max(LEAST_BAD, row["bad"]) for row in failing])
    places["bad"].set_xscale("log")
    places["bad"].set_xlabel("bad answers of a bad version in ten minutes")
    handles, labels = places["back"].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    for text in legend.get_texts():
        text.set_color(INK)
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _bars(axes: Axes, rows: Sequence[Row], names: Sequence[str], values: Sequence[float]) -> None:
    """One group for each scenario, from the top down; one bar in it for each decider."""
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        mine = [(row, value) for row, value in zip(rows, values, strict=True) if row["decider"] == name]
        places = [scenarios.index(row["scenario"]) + (index - (len(names) - 1) / 2) * height for row, _ in mine]
        axes.barh(places, [value for _, value in mine], height, color=COLOURS[index % len(COLOURS)], label=name)
    axes.set_yticks(range(len(scenarios)), scenarios)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
