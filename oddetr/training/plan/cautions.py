"""Warn before a run of objects that it will hardly learn and of scores that mean little."""

from collections.abc import Sequence

import numpy as np

from oddetr.common.text import listed
from oddetr.data.dataset import Annotations
from oddetr.data.image_sizes import native_sizes, resized_shape
from oddetr.data.transforms import MOST_SIDE, AugmentConfig
from oddetr.training.plan.choice import fullest, queries_for

SMALLEST = 8
"""Square root of an object's area in pixels below which it is smaller than a cell of the finest map."""
MANY = 0.05
"""Share of too small objects from which on there is a caution."""
STRIP = 1.5
"""Times that an image is shown smaller than its shorter side says, from which on it is a long strip."""
FEW = 50
"""Objects below which AP moves by points by chance."""


def cautions(
    train: Annotations,
    val: Annotations,
    names: Sequence[str],
    image_size: int,
    queries: int | None,
    most_images: int = 1,
) -> list[str]:
    """Return cautions, a sentence each, with what to do.

    Args:
        train, val: at least one object in `train`.
        names: of the classes.
        image_size: shorter side that images are resized to, in pixels.
        queries: the most objects that the detector can find in an image; None if unknown.
        most_images: that augmentation shows at once.
    """
    found = (
        _small(train, image_size),
        _strips(train, image_size),
        _full(train, queries),
        _overfull(train, queries, most_images),
        _few(val),
        _unseen(train, val, names),
    )
    return [caution for caution in found if caution]


def never_strong(augment: AugmentConfig, epochs: int) -> list[str]:
    """Return a caution if strong augmentation is on, but ends before the first epoch does; else none."""
    if not augment.strong or augment.strong_epochs(epochs):
        return []
    part = f"{augment.strong_until:g} of {epochs} epochs"
    return [f"No image is strongly augmented: {part} is less than one. More --epochs, or --augment.strong-until 1."]


def _small(train: Annotations, image_size: int) -> str:
    owners = train.owners[~train.crowd]
    native = native_sizes(train.sizes)
    sides = np.sqrt(train.areas[~train.crowd]) * image_size / native[owners]
    small = int((sides < SMALLEST).sum())
    if small < MANY * len(sides):
        return ""
    enough = image_size * SMALLEST / max(float(np.quantile(sides, MANY, method="lower")), 1e-3)
    if enough <= min(np.median(native), MOST_SIDE):
        advice = (
            f"--image-size {10 * int(np.ceil(enough / 10))} shows nineteen of twenty larger than that, in more time"
        )
    else:
        side = 10 * max(4, int(np.median(native) * image_size / enough / 10))
        advice = f"--slice {side} trains on tiles of {side} px, which show nineteen of twenty larger than that"
    return (
        f"{small:,} of {len(sides):,} objects are smaller than {SMALLEST} px at image size {image_size} and will "
        f"hardly be found: {advice}."
    )


def _strips(train: Annotations, image_size: int) -> str:
    shares = native_sizes(train.sizes) / train.sizes.min(axis=1)
    strips = np.flatnonzero(shares > STRIP)
    if len(strips) < MANY * len(shares):
        return ""
    height, width = train.sizes[strips[np.argmax(shares[strips])]].tolist()
    seen_height, seen_width = resized_shape(height, width, image_size)
    return (
        f"{len(strips):,} of {len(shares):,} images are long strips, whose longer side decides: {width}x{height} px "
        f"become {seen_width}x{seen_height} at image size {image_size}. Tiles show more: --slice {min(height, width)}."
    )


def _full(train: Annotations, queries: int | None) -> str:
    most = fullest(train)
    if queries is None or most <= queries:
        return ""
    advice = f"--detector.num-queries {queries_for(most)}"
    return f"An image has {most} objects, but the detector finds {queries} at most: {advice}."


def _overfull(train: Annotations, queries: int | None, most_images: int) -> str:
    objects = round(most_images * int((~train.crowd).sum()) / len(train))
    if most_images == 1 or queries is None or objects <= queries:
        return ""
    return (
        f"Mosaic and mixup show up to {most_images} images at once, with {objects} objects on average, but the "
        f"detector finds {queries} at most: --detector.num-queries {queries_for(objects)}, or no mosaic or mixup."
    )


def _few(val: Annotations) -> str:
    objects = int((~val.crowd).sum())
    if objects >= FEW:
        return ""
    return f"The validation images hold {objects} objects only: AP will move by points by chance."


def _unseen(train: Annotations, val: Annotations, names: Sequence[str]) -> str:
    trained, validated = ({*data.labels[~data.crowd].tolist()} for data in (train, val))
    unseen = [name for label, name in enumerate(names) if label in trained - validated]
    if not unseen:
        return ""
    return (
        f"No validation image shows {listed(unseen, 10)}: AP, and the choice of the best epoch, leave such objects out."
    )
