"""Draw `ap.svg` and `instability.svg` from the records of the proof in docs/comparisons.

python docs/figures/curves.py
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RECORDS = HERE.parent / "comparisons"
DETECTORS = {
    "Deformable-DETR with refinement": ("proof_refine", "proof_shared_refine"),
    "two-stage Deformable-DETR": ("proof_two_stage", "proof_shared_two_stage"),
}
"""The records of the baseline and of OD-DETR, by what a panel is called."""
ARMS = {"qfl": ("baseline", "#d55e00", "--"), "oddetr": ("OD-DETR", "#0072b2", "-")}
INK = "#808690"
"""Letters and axes: a grey that can be read on white and on black."""


def curves(folder: str, arm: str, weights: str, score: str) -> dict[int, list[float]]:
    """A score after each step with a validation, of all seeds."""
    seeds: dict[str, Any] = json.loads((RECORDS / folder / "results.json").read_text())["arms"][arm]["seeds"]
    found: dict[int, list[float]] = {}
    for run in seeds.values():
        for epoch in run["epochs"]:
            value = epoch[weights][score]
            value = value[-1] if isinstance(value, list) else value
            if value is not None:
                found.setdefault(epoch["step"], []).append(value)
    return found


def draw(panel: Axes, folders: tuple[str, str], weights: str, score: str) -> None:
    """The mean over seeds as a line, named at its end, and minimum to maximum as a band."""
    for folder, (arm, (name, colour, line)) in zip(folders, ARMS.items(), strict=True):
        found = curves(folder, arm, weights, score)
        steps, values = [*found], [*found.values()]
        panel.plot(steps, [fmean(each) for each in values], line, color=colour, linewidth=2.2, marker="o", label=name)
        panel.fill_between(steps, [*map(min, values)], [*map(max, values)], color=colour, alpha=0.25, linewidth=0)


def figure(weights: str, score: str, label: str) -> Figure:
    """Two panels, one for each detector."""
    drawn = Figure(figsize=(8.4, 3.4), layout="constrained")
    panels = drawn.subplots(1, 2, sharey=True)
    for panel, (title, folders) in zip(panels, DETECTORS.items(), strict=True):
        draw(panel, folders, weights, score)
        panel.set_title(title, fontsize=12)
        panel.set_xlabel("training steps")
        panel.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(label)
    panels[1].legend(loc="lower right", frameon=False)
    return drawn


mpl.rcParams.update(
    {
        "font.size": 11,
        "svg.fonttype": "none",
        "svg.hashsalt": "oddetr",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
)
for file, chosen in {
    "ap.svg": ("teacher", "AP", "AP (0-1) of the EMA"),
    "instability.svg": ("student", "normalised_instability", "normalised instability"),
}.items():
    figure(*chosen).savefig(HERE / file, transparent=True, metadata={"Date": None})
