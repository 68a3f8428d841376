"""Deformable attention by torch's own operators: on any device, and for export, compilation and `torch.func`."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oddetr.models.kernels.inputs import common_precision, level_layout
from oddetr.structures import Shapes


def grid_sample_attention(
    value: Float[Tensor, "batch tokens heads width"],
    shapes: Shapes,
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries heads_times_width"]:
    """`deformable_attention`, level by level through `grid_sample`: the official formulation.

    Source: `ms_deform_attn_core_pytorch` of github.com/fundamentalvision/Deformable-DETR.
    """
    batch, _, heads, width = value.shape
    queries = locations.shape[1]
    dtype = value.dtype
    value, locations, weights = common_precision(value, shapes, locations, weights)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in shapes], dim=-1)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1).unbind(dim=2)
    sampled = torch.stack(
        [
            F.grid_sample(level.unflatten(-1, shape), grid, padding_mode="zeros", align_corners=False)
            for level, shape, grid in zip(maps, shapes, grids, strict=True)
        ],
        dim=-2,
    )
    output = (sampled * weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(dim=(-2, -1))
    return output.view(batch, heads * width, queries).transpose(1, 2).to(dtype)


def gather_attention(
    value: Float[Tensor, "batch tokens heads width"],
    shapes: Shapes,
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries heads_times_width"]:
    """`deformable_attention` as a weighted sum of the four pixels around every point; repeatable on a GPU.

    A pixel outside its level has share 0, and the index of the nearest one inside.
    """
    batch, tokens, heads, width = value.shape
    dtype = value.dtype
    value, locations, weights = common_precision(value, shapes, locations, weights)
    # Each [levels, 1, 1].
    heights, widths, starts = torch.tensor(level_layout(shapes), device=value.device).T[..., None, None]
    x, x_shares = _neighbours(locations[..., 0], widths)
    y, y_shares = _neighbours(locations[..., 1], heights)
    shares = weights[..., None, None] * y_shares[..., :, None] * x_shares[..., None, :]
    token = (starts + y * widths)[..., :, None] + x[..., None, :]
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=value.device).view(-1, 1, 1, 1, 1)
    row = (image * tokens + token) * heads + head
    pixels = value.reshape(-1, width).index_select(0, row.flatten()).view(*row.shape, width)
    return (pixels * shares[..., None]).sum(dim=(3, 4, 5, 6)).flatten(2).to(dtype)


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
