"""The verdict on a curve of matching instability, and advice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

CALM = 0.15
"""A matching is called stable below this normalised instability: fewer than about one object in seven changes its query
between validations. The students of docs/comparisons ended, on blood cells, at .006 to .024 (tiny presets), .024 to
.042 (ResNet-50) and .08 (DINO); on digit scenes at .10 to .29, and with two-stage presets at .25 to .41."""
FALL = 0.95
"""A curve is falling if the mean of its last third is below this fraction of that of the third before."""
RISE, LEAST_RISE = 1.5, 0.05
"""A curve is rising if at least its last two values exceed RISE times the minimum, the minimum + LEAST_RISE, and
CALM."""
FEWEST = 3
"""Least number of values for a verdict."""

Kind = Literal["unknown", "stable", "moving", "unstable"]


@dataclass(frozen=True)
class Stability:
    """The verdict, the observation behind it, and advice; `since` is the first epoch of an unstable matching."""

    kind: Kind
    seen: str
    advice: str
    since: int | None = None


def stability(epochs: Sequence[int], values: Sequence[float], cosine: bool, calmed: bool) -> Stability:
    """Judge a curve of normalised instability.

    Args:
        epochs: epochs of the validations, ascending.
        values: those of the last decoder layer, in [0, 1].
        cosine: whether the learning rate follows a cosine (`--optimizer.schedule cosine`), which has no step to move.
        calmed: whether OD-DETR was enabled, or is not known.
    """
    if len(values) < FEWEST:
        times = ("never", "once", "twice")[len(values)]
        seen = f"Matchings were compared {times}, too few times for a verdict."
        return Stability("unknown", seen, "Validate more often (--validate-every), or train longer.")
    share = f"about {100 * values[-1]:.0f} % of the matching changed between the last two validations"
    od_detr = "" if calmed else " OD-DETR (--distillation.enabled true) calms it too."
    low, start = int(np.argmin(values)), _start_of_rise(values)
    if start is not None:
        seen = f"From epoch {epochs[start]} on: after its calmest ({values[low]:.2f}, epoch {epochs[low]}) it rose"
        drop = "" if cosine else ", or let it drop earlier (--optimizer.drop-at)"
        advice = f"Lower --optimizer.learning-rate{drop}.{od_detr}"
        return Stability("unstable", f"{seen}, and {share}.", advice, epochs[start])
    third = max(1, len(values) // 3)
    last, before = float(np.mean(values[-third:])), float(np.mean(values[-2 * third : -third]))
    if last < CALM:
        advice = "Which query finds which object is settled; longer training would refine boxes and scores."
        return Stability("stable", f"{share.capitalize()}.", advice)
    if last < FALL * before:
        return Stability("moving", f"It is calming down: {share}.", "More --epochs would let it settle.")
    rate = "" if cosine else ", or with a learning rate that falls further (--optimizer.schedule cosine)"
    return Stability("moving", f"It is not calming down: {share}.", f"Train longer{rate}.{od_detr}")


def _start_of_rise(values: Sequence[float]) -> int | None:
    """The index at which a rise to the end starts; None without one."""
    low = int(np.argmin(values))
    limit = max(RISE * values[low], values[low] + LEAST_RISE, CALM)
    first = len(values)
    while first > low + 1 and values[first - 1] > limit:
        first -= 1
    return first if len(values) - first >= 2 else None
