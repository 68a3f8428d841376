"""Deformable attention by `grid_sample`: the official formulation, on any device; also for export and compilation."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from oddetr.models.kernels.inputs import common_precision


def grid_sample_attention(
    value: Float[Tensor, "batch tokens heads width"],
    shapes: tuple[tuple[int, int], ...],
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries heads_times_width"]:
    """`deformable_attention`, level by level through `grid_sample`.

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
            functional.grid_sample(level.unflatten(-1, shape), grid, padding_mode="zeros", align_corners=False)
            for level, shape, grid in zip(maps, shapes, grids, strict=True)
        ],
        dim=-2,
    )
    output = (sampled * weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(dim=(-2, -1))
    return output.view(batch, heads * width, queries).transpose(1, 2).to(dtype)
