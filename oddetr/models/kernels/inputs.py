"""What the implementations of deformable attention share: checks, precision and the layout of the levels."""

import torch
from torch import Tensor

from oddetr.structures import Shapes


def check_inputs(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> None:
    """Checks that `value`, `locations`, `weights` and `shapes` (h, w of every level) fit together.

    Raises:
        ValueError: they contradict each other.
    """
    batch, tokens, heads, _ = value.shape
    expected = (batch, locations.shape[1], heads, len(shapes), locations.shape[4], 2)
    if locations.shape != expected or weights.shape != expected[:-1]:
        raise ValueError(
            f"Value {tuple(value.shape)} and {len(shapes)} levels need locations {expected} and weights "
            f"{expected[:-1]}; found {tuple(locations.shape)} and {tuple(weights.shape)}."
        )
    if min(map(min, shapes)) < 1 or tokens != sum(height * width for height, width in shapes):
        raise ValueError(f"Levels of (h, w) {shapes} do not hold the {tokens} tokens of value {tuple(value.shape)}.")


def working_precision(*tensors: Tensor) -> torch.dtype:
    """float64 if any of them is, else float32.

    A location needs float32: bfloat16 would place a point only to about 1/256 of the image.
    """
    return torch.float64 if torch.float64 in [tensor.dtype for tensor in tensors] else torch.float32


def common_precision(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`value`, `locations` and `weights`, checked to fit together, in their `working_precision`."""
    check_inputs(value, shapes, locations, weights)
    precision = working_precision(value, locations, weights)
    return value.to(precision), locations.to(precision), weights.to(precision)


def level_layout(shapes: Shapes) -> list[tuple[int, int, int]]:
    """(height, width, first token) of every level."""
    starts = [sum(height * width for height, width in shapes[:level]) for level in range(len(shapes))]
    return [(height, width, start) for (height, width), start in zip(shapes, starts, strict=True)]
