"""Sine embeddings of positions (Deformable-DETR, section A.4; Attention Is All You Need, section 3.5)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def _waves(phases: Tensor, features: int, temperature: float) -> Tensor:
    """sin(phase / T^(2i / features)) and cos(...), interleaved: [...] -> [..., features]."""
    exponents = torch.arange(features // 2, dtype=torch.float32, device=phases.device) * (2 / features)
    angles = phases[..., None] / temperature**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def sine_position_map(
    padding_mask: Bool[Tensor, "batch height width"], features: int, temperature: float = 10000.0, centred: bool = True
) -> Float[Tensor, "batch height width features"]:
    """The position of each cell in the unpadded part of its map: first half of the features y, second half x.

    Positions run from 0 to 2 pi over the unpadded part.

    Args:
        padding_mask: True on padding.
        features: length of the embedding, a multiple of 4.
        temperature: ratio of the longest to the shortest wave: Deformable-DETR's; 20 in DINO.
        centred: measure at the cells' centres, as Deformable-DETR does; else at their far corners, as DINO does.
    """
    inside = (~padding_mask).float()
    phases: list[Tensor] = []
    for axis in (1, 2):
        count = inside.cumsum(axis)
        extent = count.narrow(axis, -1, 1)
        phases.append((count - 0.5 * centred) / (extent + 1e-6) * 2 * math.pi)
    return torch.cat([_waves(phase, features // 2, temperature) for phase in phases], dim=-1)


def sine_box_embedding(
    boxes: Float[Tensor, "batch queries 4"], features: int, temperature: float = 10000.0
) -> Float[Tensor, "batch queries four_features"]:
    """Each of cx, cy, w, h (in [0, 1]) as `features` waves, one after the other (official `get_proposal_pos_embed`)."""
    return _waves(boxes * 2 * math.pi, features, temperature).flatten(-2)


def sine_anchor_embedding(anchors: Float[Tensor, "batch queries 4"]) -> Float[Tensor, "batch queries 512"]:
    """128 waves of each of cy, cx, w, h, whatever the detector's width (DAB-DETR, arXiv 2201.12329, eq. 4)."""
    cx, cy, size = anchors.split([1, 1, 2], dim=-1)  # indices would be copied from the host
    return sine_box_embedding(torch.cat([cy, cx, size], dim=-1), 128)
