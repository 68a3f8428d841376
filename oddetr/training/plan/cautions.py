"""Warn before a run of objects that it will hardly learn and of scores that will say little."""

from collections.abc import Sequence

import numpy as np

from oddetr.common.text import listed
from oddetr.data.dataset import Annotations
from oddetr.training.plan.choice import fullest, queries_for

SMALLEST = 8
"""Square root of an object's area in pixels below which it is smaller than a cell of the finest map."""
WORTH_TELLING = 0.05
"""Share of objects that may be too small without a caution."""
FEW = 50
"""Objects below which AP moves by points by chance."""


def cautions(
    train: Annotations, val: Annotations, names: Sequence[str], image_size: int, queries: int | None
) -> list[str]:
    """Return cautions, a sentence each, with what to do.

    Args:
        train, val: annotations; at least one object in `train`.
        names: of the classes.
        image_size: shorter side that images are resized to, in pixels.
        queries: the most objects that the detector can find in an image; None if unknown.
    """
    return [*_small(train, image_size), *_full(train, queries), *_few(val), *_unseen(train, val, names)]


def _small(train: Annotations, image_size: int) -> list[str]:
    owners = train.owners[~train.crowd]
    scale = image_size / train.sizes.min(axis=1)[owners]
    sides = np.sqrt(train.areas[~train.crowd]) * scale
    small = int((sides < SMALLEST).sum())
    if small < WORTH_TELLING * len(sides):
        return []
    enough = image_size * SMALLEST / max(float(np.quantile(sides, WORTH_TELLING, method="lower")), 1e-3)
    native = int(np.median(train.sizes.min(axis=1)))
    advice = (
        f"--image-size {10 * int(np.ceil(enough / 10))} shows nineteen of twenty larger than that, in more time"
        if enough <= native
        else f"the images have a shorter side of {native} px: larger ones, or crops of them, would help"
    )
    return [
        f"{small:,} of {len(sides):,} objects are smaller than {SMALLEST} px at image size {image_size} and will "
        f"hardly be found: {advice}."
    ]


def _full(train: Annotations, queries: int | None) -> list[str]:
    most = fullest(train)
    if queries is None or most <= queries:
        return []
    return [
        f"An image has {most} objects, but the detector finds {queries} at most: --detector.num-queries "
        f"{queries_for(most)}."
    ]


def _few(val: Annotations) -> list[str]:
    objects = int((~val.crowd).sum())
    if objects >= FEW:
        return []
    return [f"The validation images hold {objects} objects only: AP will move by points by chance."]


def _unseen(train: Annotations, val: Annotations, names: Sequence[str]) -> list[str]:
    learned, shown = ({*data.labels[~data.crowd].tolist()} for data in (train, val))
    unseen = [name for label, name in enumerate(names) if label in learned - shown]
    if not unseen:
        return []
    them = "it" if len(unseen) == 1 else "them"
    return [
        f"No validation image shows {listed(unseen, 10)}: AP, and the choice of the best epoch, say nothing of {them}."
    ]
