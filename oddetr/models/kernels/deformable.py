"""Deformable attention: chooses the implementation that suits the inputs."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from oddetr.models.kernels.gather import gather_attention
from oddetr.models.kernels.inputs import are_plain_on, are_transformed, must_stay_symbolic
from oddetr.models.kernels.own import own_form
from oddetr.models.kernels.reference import grid_sample_attention


def deformable_attention(
    value: Float[Tensor, "batch tokens heads width"],
    shapes: tuple[tuple[int, int], ...],
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries heads_times_width"]:
    """Multi-scale deformable attention without its linear maps (arXiv 2010.04159, eq. 3).

    out[b, q, h] = sum over levels l and points p of  weights[b, q, h, l, p] * V[b, l, h](locations[b, q, h, l, p])

    V(x, y) interpolates a level bilinearly between pixel centres and is 0 outside: `grid_sample` at (2x - 1, 2y - 1)
    with `align_corners=False` and `padding_mode="zeros"`.

    Computed in float64 if any input is float64, else in float32; the result has the type of `value`. A location that is
    not finite makes the result of its query and head NaN.

    Args:
        value: per level its pixels row by row, level after level.
        shapes: (h, w) of every level; tokens = sum of h * w.
        locations: (x, y) in [0, 1] across each level's padded map; points outside are allowed.
        weights: of the points; usually they sum to 1 over levels and points.

    Raises:
        ValueError: the shapes contradict each other.
    """
    if must_stay_symbolic() and not torch.are_deterministic_algorithms_enabled():
        return grid_sample_attention(value, shapes, locations, weights)
    if must_stay_symbolic() or are_transformed():
        return gather_attention(value, shapes, locations, weights)
    form: Callable[..., Tensor] | None = None
    if are_plain_on("cpu", value, locations, weights):
        form = own_form("cpu", "numba_attention")
    elif are_plain_on("cuda", value, locations, weights):
        # Triton's atomic additions have no fixed order.
        fixed = torch.are_deterministic_algorithms_enabled()
        form = gather_attention if fixed else own_form("gpu", "triton_attention", "cuda")
    return (form or grid_sample_attention)(value, shapes, locations, weights)
