"""SVG figures in the page's CSS colours, so that they follow its light or dark scheme."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

_INK, _FAINT = "#010203", "#040506"
_SERIES = tuple(f"#0a0b{number:02x}" for number in range(1, 9))
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)
}
"""The colours that matplotlib draws with, and the CSS variables that replace them."""
_LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 1)))
"""One fewer than colours, so that the first 56 lines are all different."""
_MARKERS = "os^Dv*PX"
_MOST_MARKED, _WIDE = 40, 18
"""Points of a line up to which each has a marker; characters above which labels of the legend stand one in a row."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: title, alternative text and SVG."""

    title: str
    alt: str
    svg: str


@dataclass(frozen=True)
class Curve:
    """A named line."""

    name: str
    x: Sequence[float | int]
    y: Sequence[float]

    @classmethod
    def of(cls, name: str, points: Sequence[tuple[int, float | None]]) -> "Curve":
        """A line through the points whose y is not None."""
        kept = [(x, y) for x, y in points if y is not None]
        return cls(name, [x for x, _ in kept], [y for _, y in kept])


def curves(title: str, lines: Sequence[Curve], x_label: str, y_label: str, *, log: bool = False) -> Drawing:
    """Plot lines over epochs or steps; the y axis starts at 0, or is logarithmic if `log`."""
    with rc_context(_STYLE):
        figure, axes = _plot(lines, x_label, y_label)
        places = {x for line in lines for x in line.x}
        if len(places) == 1:
            axes.set_xlim(min(places) - 1, min(places) + 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            _add_legend(figure, axes)
        ends = "; ".join(
            f"{line.name}: from {line.y[0]:.3g} to {line.y[-1]:.3g}, least {min(line.y):.3g}, "
            f"greatest {max(line.y):.3g}"
            for line in lines
            if len(line.y)
        )
        return Drawing(title, f"{title}. {ends}." if ends else title, _svg(figure, title))


def precision_recall(precision: Float64[np.ndarray, "classes recalls"], names: Sequence[str], most: int = 8) -> Drawing:
    """Plot precision over recall at IoU 0.5: the mean over classes with objects, and the worst `most` - 1 classes."""
    title = "Precision and recall at IoU 0.5"
    known = [label for label in range(len(names)) if not np.isnan(precision[label]).any()]
    known.sort(key=lambda label: precision[label].mean())
    shown = known[: most - 1]
    recalls = np.linspace(0, 1, precision.shape[1]).tolist()
    lines = [Curve(names[label], recalls, precision[label].tolist()) for label in shown]
    if len(known) > 1:
        lines.insert(0, Curve(f"mean of {len(known)} classes", recalls, precision[known].mean(axis=0).tolist()))
    with rc_context(_STYLE):
        figure, axes = _plot(lines, "recall", "precision")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        _add_legend(figure, axes)
        text = "; ".join(f"{line.name}: AP50 {np.mean(line.y):.3f}" for line in lines)
        note = f" The {len(shown)} classes with the lowest AP50 are shown." if len(known) > len(shown) else ""
        return Drawing(title, f"{title}. {text}.{note}", _svg(figure, title))


def shortened(labels: Sequence[str], most: int = 26) -> list[str]:
    """Cut labels to `most` characters: at the end, or at the start if that keeps them distinct."""
    cut = [label if len(label) <= most else label[: most - 1] + "…" for label in labels]
    if len({*cut}) == len({*labels}):
        return cut
    return [label if len(label) <= most else "…" + label[1 - most :] for label in labels]


def _plot(lines: Sequence[Curve], x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Plot lines that differ in colour, dash and marker."""
    figure = Figure(figsize=(4.4, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.grid(linewidth=0.6)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    for number, line in enumerate(lines):
        axes.plot(
            line.x,
            line.y,
            color=_SERIES[number % len(_SERIES)],
            linestyle=_LINES[number % len(_LINES)],
            marker=_MARKERS[number % len(_MARKERS)] if len(line.x) <= _MOST_MARKED else None,
            markersize=3.5,
            linewidth=1.6,
            label=line.name,
        )
    return figure, axes


def _add_legend(figure: Figure, axes: Axes) -> None:
    handles = axes.get_lines()
    names = shortened([str(handle.get_label()) for handle in handles])
    numbers = [str(number) for number in range(len(names))]  # matplotlib leaves out names that begin with _
    columns = 1 if max(map(len, names)) > _WIDE else 2
    legend = figure.legend(
        handles, numbers, loc="outside lower center", ncols=columns, handlelength=3.2, columnspacing=1.2
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def _svg(figure: Figure, salt: str) -> str:
    stream = io.StringIO()
    with rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser draws the text
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    head, rest = text.split(">", 1)
    size = " ".join(part for part in head.split(" ") if not part.startswith(("width=", "height=")))
    return f'{size} aria-hidden="true">{rest}'
