"""Deformable attention by indexing: for `torch.func`, higher derivatives and fixed order of sums on a GPU."""

import torch
from jaxtyping import Float
from torch import Tensor

from oddetr.models.kernels.inputs import common_precision


def gather_attention(
    value: Float[Tensor, "batch tokens heads width"],
    shapes: tuple[tuple[int, int], ...],
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries heads_times_width"]:
    """`deformable_attention` as a weighted sum of the four pixels around every point.

    A pixel outside its level has share 0, and stands under the index of the nearest one inside.
    """
    batch, tokens, heads, width = value.shape
    dtype = value.dtype
    value, locations, weights = common_precision(value, shapes, locations, weights)
    heights, widths, starts = _columns(shapes, value.device)
    x, x_shares = _neighbours(locations[..., 0], widths)
    y, y_shares = _neighbours(locations[..., 1], heights)
    shares = weights[..., None, None] * y_shares[..., :, None] * x_shares[..., None, :]
    token = (starts + y * widths)[..., :, None] + x[..., None, :]
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=value.device).view(-1, 1, 1, 1, 1)
    row = (image * tokens + token) * heads + head
    pixels = value.reshape(-1, width).index_select(0, row.flatten()).view(*row.shape, width)
    return (pixels * shares[..., None]).sum(dim=(3, 4, 5, 6)).flatten(2).to(dtype)


def _columns(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Height, width and first token of the levels, each [levels, 1, 1]."""
    heights, widths = torch.tensor(shapes, device=device).view(-1, 2, 1, 1).unbind(dim=1)
    areas = heights * widths
    return heights, widths, areas.cumsum(0) - areas


def _neighbours(locations: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The two pixels around each location on one axis: indices and shares, [..., levels, points, 2].

    Location u on an axis of n pixels lies at u n - 1/2 = i + t with i whole: pixels (i, i + 1), shares (1 - t, t).
    Indices are clamped before they become integers, as huge numbers cannot, and after, as NaN passes the first time.
    """
    position = locations[..., None] * sizes - 0.5
    low = position.floor()
    fraction = position - low
    pixels = torch.cat([low, low + 1], dim=-1)
    shares = torch.cat([1 - fraction, fraction], dim=-1) * ((pixels >= 0) & (pixels < sizes))
    pixels = torch.minimum(pixels.clamp(min=-1), sizes.to(pixels.dtype)).long()
    return torch.minimum(pixels.clamp(min=0), sizes - 1), shares
