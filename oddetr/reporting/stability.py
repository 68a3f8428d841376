"""What the instability curve says, in a sentence, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

CALM = 0.15
"""Normalised instability below which a matching is called stable: between two validations fewer than about one object
in seven changes its query. The students of docs/comparisons ended, on blood cells, at .006 to .024 (tiny presets),
.024 to .042 (ResNet-50) and .08 (DINO); on digit scenes at .10 to .29, and with two-stage presets at .25 to .41."""
FALL = 0.95
"""A curve is called falling where its last third's mean is below this share of the third's before."""
RISE, LEAST_RISE = 1.5, 0.05
"""A curve is called rising where it ends, at least twice, above its least value times this, above that plus this, and
above what is calm."""
FEWEST = 3
_OD_DETR = " OD-DETR (--distillation.enabled true) calms it too."

Kind = Literal["unknown", "stable", "moving", "unstable"]


@dataclass(frozen=True)
class Stability:
    """The verdict, what was seen, and what to do; `since`: the epoch from which on it is unstable."""

    kind: Kind
    seen: str
    advice: str
    since: int | None = None


def stability(epochs: Sequence[int], values: Sequence[float], cosine: bool, calmed: bool) -> Stability:
    """Judges a curve of normalised instability.

    Args:
        epochs: of the validations, ascending.
        values: in [0, 1], the last decoder layer's.
        cosine: whether the learning rate falls to 0 (`--optimizer.schedule cosine`), so that it has no time of a drop.
        calmed: whether OD-DETR was on, or is no help for such a detector.
    """
    if len(values) < FEWEST:
        return Stability(
            "unknown",
            f"Matchings were compared {('never', 'once', 'twice')[len(values)]}, too seldom to tell whether they are "
            "stable.",
            "Validate more often (--validate-every), or train longer.",
        )
    since = _rises_from(values)
    third = max(1, len(values) // 3)
    last, before = float(np.mean(values[-third:])), float(np.mean(values[-2 * third : -third]))
    share = f"about {100 * values[-1]:.0f} % of the matching changed between the last two validations"
    if since is not None:
        low = int(np.argmin(values))
        return Stability(
            "unstable",
            f"From epoch {epochs[since]} on: after its calmest ({values[low]:.2f}, epoch "
            f"{epochs[low]}) it rose, and {share}.",
            "Lower --optimizer.learning-rate"
            + ("." if cosine else ", or let it drop earlier (--optimizer.drop-at).")
            + ("" if calmed else _OD_DETR),
            epochs[since],
        )
    if last < CALM:
        return Stability(
            "stable",
            f"{share.capitalize()}.",
            "Which query finds which object is settled; longer training would refine boxes and scores.",
        )
    if last < FALL * before:
        return Stability(
            "moving",
            f"It is calming down: {share}.",
            "More --epochs would let it settle.",
        )
    return Stability(
        "moving",
        f"It is not calming down: {share}.",
        "Train longer"
        + ("." if cosine else ", or with a learning rate that falls further (--optimizer.schedule cosine).")
        + ("" if calmed else _OD_DETR),
    )


def _rises_from(values: Sequence[float]) -> int | None:
    """Where a rise begins that lasts to the end; None without one."""
    low = int(np.argmin(values))
    limit = max(RISE * values[low], values[low] + LEAST_RISE, CALM)
    first = len(values)
    while first > low + 1 and values[first - 1] > limit:
        first -= 1
    return first if len(values) - first >= 2 else None
