"""Draw `one_step.svg`: a training step of OD-DETR with its defaults.

python docs/figures/method.py
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

HERE = Path(__file__).parent
STUDENT, TEACHER, INK = "#0072b2", "#d55e00", "#808690"
"""As in `curves.py`. Letters are INK: a grey that can be read on white and on black."""
WIDTH, HEIGHT = 80, 78
"""Of the picture, in tenths of an inch."""
RADIUS = 0.75


def box(panel: Axes, left: float, bottom: float, width: float, height: float, colour: str, fill: float = 0) -> None:
    """A rounded box; `fill` is the opacity of its inside."""
    for alpha, face, edge in ((fill, colour, "none"), (1, "none", colour)):
        patch = FancyBboxPatch(
            (left, bottom), width, height, "round,pad=0,rounding_size=1", facecolor=face, edgecolor=edge, linewidth=1.6
        )
        patch.set_alpha(alpha)
        panel.add_patch(patch)


def arrow(panel: Axes, *points: tuple[float, float], colour: str = INK, line: str = "-", width: float = 1.8) -> None:
    """A line through `points` with a head at its end."""
    before, end = points[-2:]
    panel.plot(*zip(*points[:-1], strict=True), line, color=colour, linewidth=width)
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": width, "linestyle": line, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", end, before, arrowprops=style | {"mutation_scale": 15})


def write(panel: Axes, x: float, y: float, *lines: str, head: bool = False, at: str = "center") -> None:
    """Lines of text below one another, the first in normal size, bold if it is a `head`; others are small."""
    for index, text in enumerate(lines):
        size, weight = (10, "normal") if index else (11.5, "bold" if head else "normal")
        panel.text(x, y - 2.4 * index, text, fontsize=size, fontweight=weight, ha=at, va="center")


def query(panel: Axes, x: float, y: float, candidate: bool) -> None:
    """A candidate as a full circle, a rival as an empty one."""
    face = INK if candidate else "none"
    panel.add_patch(Circle((x, y), RADIUS, facecolor=face, edgecolor=INK, linewidth=1.6))


def top(panel: Axes) -> None:
    """From the images to what both decoders read."""
    box(panel, 1, 70, 11, 6, INK)
    write(panel, 6.5, 73, "images")
    arrow(panel, (12, 73), (17, 73))
    box(panel, 17, 70, 27, 6, STUDENT, 0.08)
    write(panel, 30.5, 74.2, "backbone and encoder", "the student's")
    arrow(panel, (44, 73), (50, 73))
    box(panel, 50, 70, 29, 6, INK)
    write(panel, 64.5, 74.2, "memory and queries", "learned, or proposed by the encoder")
    arrow(panel, (65, 70), (65, 62))
    arrow(panel, (65, 66), (15, 66), (15, 62))
    write(panel, 40, 67.6, "both: the same memory, the same slots or tokens")


def teacher(panel: Axes) -> None:
    """The teacher's column."""
    box(panel, 1, 12, 28, 50, TEACHER, 0.08)
    write(panel, 15, 59.2, "teacher's decoder", "no gradient, evaluation mode", head=True)
    box(panel, 2.5, 46, 25, 8, INK)
    write(panel, 15, 51.2, "matching t", "query to object")
    box(panel, 2.5, 34.5, 25, 8, INK)
    write(panel, 15, 39.7, "predictions", "query by query, layer by layer")
    box(panel, 2.5, 14, 25, 17, INK)
    write(panel, 15, 28.6, "queries for each object", "the cheapest, from any layer")
    for x in (5, 7.4):
        query(panel, x, 21.6, candidate=True)
    write(panel, 13, 21.6, "2 candidates", at="left")
    for x in (5, 7.4, 9.8):
        query(panel, x, 17.4, candidate=False)
    write(panel, 13, 17.4, "3 rivals", at="left")


def student(panel: Axes) -> None:
    """The student's column."""
    box(panel, 51, 12, 28, 50, STUDENT, 0.08)
    write(panel, 65, 59.2, "student's decoder", "two groups, masked from each other", head=True)
    box(panel, 52.5, 34.5, 25, 19.5, INK)
    write(panel, 65, 51.2, "own queries, L_own", "to their objects by s and by t")
    panel.plot((52.5, 77.5), (44.25, 44.25), ":", color=INK, linewidth=1.6)
    write(panel, 65, 39.7, "the same queries, L_pred", "to the teacher's predictions")
    box(panel, 52.5, 14, 25, 17, INK)
    write(panel, 65, 28.6, "auxiliary queries, L_aux", "2 masked sub-groups")
    for y in (22.3, 19.1):
        for index in range(4):
            query(panel, 59 + 4 * index, y, candidate=index == 0)
        box(panel, 57, y - 1.35, 16, 2.7, INK)
    query(panel, 54.6, 15.9, candidate=True)
    query(panel, 66.4, 15.9, candidate=False)
    panel.text(56, 15.8, "its object", fontsize=10, va="center")
    panel.text(67.8, 15.8, "background", fontsize=10, va="center")


def between(panel: Axes) -> None:
    """What passes between the two, and the loss."""
    for y, name, weight in (
        (50, "1 matching", "w_m = 1"),
        (38.5, "2 prediction", "w_p = 0.3"),
        (21.5, "3 auxiliary group", "w_a = 1"),
    ):
        arrow(panel, (27.7, y), (52.3, y), colour=TEACHER, width=2.4)
        write(panel, 40, y + 2.2, name)
        panel.text(40, y - 2, weight, fontsize=10, ha="center", va="center")
    arrow(panel, (65, 12), (65, 8.4))
    box(panel, 51, 3, 28, 5.4, INK)
    panel.text(65, 5.7, "L_own + w_p L_pred + w_a L_aux", fontsize=10.5, ha="center", va="center")
    arrow(panel, (51, 13.4), (29.2, 13.4), colour=STUDENT, line="--")
    write(panel, 39.6, 10.8, "moving average", "of all weights, after each step")


mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "oddetr", "text.color": INK})
drawn = Figure(figsize=(WIDTH / 10, HEIGHT / 10))
whole = drawn.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
whole.axis("off")
for part in (top, teacher, student, between):
    part(whole)
drawn.savefig(HERE / "one_step.svg", transparent=True, metadata={"Date": None})
