"""Deformable attention: chooses the implementation that suits the inputs."""

import torch
from jaxtyping import Float
from torch import Tensor

from oddetr.models.kernels.choice import are_plain, compiled_kernel, is_traced
from oddetr.models.kernels.operators import gather_attention, grid_sample_attention
from oddetr.structures import Shapes


def deformable_attention(
    value: Float[Tensor, "batch tokens heads width"],
    shapes: Shapes,
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries heads_times_width"]:
    """Multi-scale deformable attention without its linear maps (arXiv 2010.04159, eq. 3).

    out[b, q, h] = sum over levels l and points p of  weights[b, q, h, l, p] * V[b, l, h](locations[b, q, h, l, p])

    V(x, y) interpolates a level bilinearly between pixel centres and is 0 outside: `grid_sample` at (2x - 1, 2y - 1)
    with `align_corners=False` and `padding_mode="zeros"`.

    Computed in float64 if any input is float64, else in float32; the result has the type of `value`. A location that is
    not finite makes the result of its query and head NaN. Our own loops have no second derivatives.

    Args:
        value: per level its pixels row by row, level after level.
        shapes: (h, w) of every level; tokens = sum of h * w.
        locations: (x, y) in [0, 1] across each level's padded map; points outside are allowed.
        weights: of the points; usually they sum to 1 over levels and points.

    Raises:
        ValueError: the shapes contradict each other.
    """
    # On a GPU, Triton's atomic additions and the gradient of grid_sample have no fixed order of sums.
    repeatable = torch.are_deterministic_algorithms_enabled()
    form = gather_attention if repeatable else grid_sample_attention
    if are_plain(value, locations, weights) and not is_traced():
        if value.device.type == "cpu":
            form = compiled_kernel("cpu", "numba_attention") or form
        elif value.device.type == "cuda" and not repeatable:
            form = compiled_kernel("gpu", "triton_attention", "cuda") or form
    return form(value, shapes, locations, weights)
