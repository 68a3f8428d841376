"""Figures of a comparison: student and teacher side by side; arms differ in colour, line style and marker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from oddetr.comparison.arms import label_of
from oddetr.comparison.records import RunResult
from oddetr.prediction.drawing import PALETTE

_COLOURS = ((0, 0, 0), *(colour for colour in PALETTE if colour != (240, 228, 66)))
"""Black replaces yellow, which is too pale on white."""
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
_MARKERS = "osD^vPX*<>"
_MOST_MARKERS = 12


@dataclass(frozen=True)
class FigureKind:
    """The content of a figure: a curve of `RunResult` over epochs or minutes."""

    score: str
    title: str
    unit: str
    over_time: bool = False


FIGURES: dict[str, FigureKind] = {
    "ap_epoch.png": FigureKind("AP", "AP on the validation images, by epoch", "AP (0-1)"),
    "ap_time.png": FigureKind("AP", "AP on the validation images, by time of training", "AP (0-1)", over_time=True),
    "instability.png": FigureKind(
        "normalised_instability",
        "Matching instability between validations, last decoder layer",
        "normalised instability (0: matching unchanged)",
    ),
    "unstable_score.png": FigureKind(
        "unstable_score",
        "Objects that the last decoder layer matches to another query than the layer before",
        "unstable score (share of objects, 0-1)",
    ),
}
_PANELS = {"student": "student", "teacher": "teacher (EMA)"}


def draw_figures(runs: Mapping[str, Sequence[RunResult]], folder: Path) -> list[str]:
    """Draw the figures that have curves, delete old ones that have none, and return the names of those drawn."""
    drawn: list[str] = []
    for name, kind in FIGURES.items():
        (folder / name).unlink(missing_ok=True)
        if any(run.curve(model, kind.score) for each in runs.values() for run in each for model in _PANELS):
            comparison_figure(runs, kind).savefig(folder / name, dpi=150)
            drawn.append(name)
    return drawn


def comparison_figure(runs: Mapping[str, Sequence[RunResult]], kind: FigureKind) -> Figure:
    """A figure of student and teacher: for each arm a line for the mean over seeds, and a band from min to max."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    seeds = max(len(each) for each in runs.values())
    fewer = "up to " if any(len(each) < seeds for each in runs.values()) else ""
    band = f"line: mean of {fewer}{seeds} seeds, band: minimum to maximum" if seeds > 1 else "one seed"
    figure.suptitle(f"{kind.title}\n({band})", fontsize=13)
    for panel, (model, title) in zip(panels, _PANELS.items(), strict=True):
        for number, (arm, each) in enumerate(runs.items()):
            _draw_arm(panel, arm, number, each, model, kind)
        panel.set_title(title, fontsize=13)
        panel.set_xlabel("minutes of training, without validation" if kind.over_time else "epoch", fontsize=12)
        panel.tick_params(labelsize=11, labelleft=True)
        panel.grid(alpha=0.3)
        if kind.over_time:
            panel.set_xlim(left=0)
        else:
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylim(bottom=0)  # for both panels, and only now: it ends autoscaling
    panels[0].set_ylabel(kind.unit, fontsize=12)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=11, handlelength=4)
    return figure


def _draw_arm(panel: Axes, arm: str, number: int, runs: Sequence[RunResult], model: str, kind: FigureKind) -> None:
    """Draw the line and the band of an arm; over time, an epoch is placed at its mean time."""
    curves = [run.curve(model, kind.score) for run in runs]
    epochs = sorted({epoch for curve in curves for epoch in curve})
    if not epochs:
        return
    times = [run.times() for run in runs]
    values = [[curve[epoch] for curve in curves if epoch in curve] for epoch in epochs]
    places = [fmean(time[epoch] for time in times if epoch in time) if kind.over_time else epoch for epoch in epochs]
    every = -(-len(epochs) // _MOST_MARKERS)
    colour = "#{:02x}{:02x}{:02x}".format(*_COLOURS[number % len(_COLOURS)])
    panel.plot(
        places,
        [fmean(each) for each in values],
        color=colour,
        linestyle=_LINES[number % len(_LINES)],
        marker=_MARKERS[number % len(_MARKERS)],
        markevery=[*range(len(epochs) - 1, -1, -every)],
        markersize=6,
        linewidth=1.8,
        label=label_of(arm),
    )
    if len(runs) > 1:
        low, high = [min(each) for each in values], [max(each) for each in values]
        panel.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
