"""Multi-scale deformable attention as a module: linear maps around `kernels.deformable_attention`."""

import functools
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from oddetr.models.autocast import lowered
from oddetr.models.kernels import deformable_attention
from oddetr.models.kernels.choice import are_plain, is_traced
from oddetr.structures import Embeddings, Shapes


class MultiScaleDeformableAttention(nn.Module):
    """Each query samples `points` places per head and level around its anchor (arXiv 2010.04159, eq. 3).

    Offsets are in cells of the level around an anchor point; around an anchor box in units of half the box over
    `points`. Initially the points of head h lie on a ray at angle 2 pi h / heads, at distances 1 .. points cells.

    Args:
        width: of queries and values, a multiple of `heads`.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"The width ({width}) must be a multiple of the number of heads ({heads}).")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._initialise()

    def _initialise(self) -> None:
        """The official initialisation: offsets in rings, uniform attention, Xavier projections."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(dim=-1, keepdim=True)
        distances = torch.arange(1, self.points + 1, dtype=torch.float32)
        ring = (rays[:, None, None, :] * distances[:, None]).expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.reshape(-1))
        for zero in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zero)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Embeddings,
        anchors: Float[Tensor, "batch queries #levels point_or_box"],
        tokens: Float[Tensor, "batch tokens width"],
        padding_mask: Bool[Tensor, "batch tokens"],
        shapes: Shapes,
    ) -> Embeddings:
        """Sample `tokens` (levels of `shapes`, one after the other) around `anchors`.

        Anchors are relative to each level's padded map. Padded tokens read as 0.
        """
        batch, queries, width = query.shape
        query = lowered(query)
        value = self.value_proj(tokens).masked_fill(padding_mask[..., None], 0.0)
        value = value.view(batch, -1, self.heads, width // self.heads)
        weights = self.attention_weights(query).view(batch, queries, self.heads, self.levels * self.points)
        weights = weights.softmax(dim=-1).view(batch, queries, self.heads, self.levels, self.points)
        # Levels, points and coordinates share one axis: broadcasting along axes of 4 and 2 takes ten times as long.
        offsets = self.sampling_offsets(query).view(batch, queries, self.heads, -1)
        centre = self._at_points(anchors[..., :2])
        if anchors.shape[-1] == 2:
            locations = centre + offsets / self._at_points(level_sizes(shapes, anchors))
        else:
            locations = centre + offsets * self._at_points(anchors[..., 2:] * (0.5 / self.points))
        locations = locations.view(batch, queries, self.heads, self.levels, self.points, 2)
        return self.output_proj(deformable_attention(value, shapes, locations, weights))

    def _at_points(self, pairs: Float[Tensor, "*leading #levels 2"]) -> Float[Tensor, "*leading_and_one offsets"]:
        """Repeat each level's pair for all its points, in one row; the same for all heads."""
        leading = pairs.shape[:-2]
        return pairs[..., None, :].expand(*leading, self.levels, self.points, 2).reshape(*leading, 1, -1)


def level_sizes(shapes: Shapes, like: Tensor) -> Float[Tensor, "levels 2"]:
    """(w, h) of levels of (h, w) `shapes`, of the type and on the device of `like`. Read only.

    Cached: copying it to a GPU again would make the host wait for all the work queued there.
    """
    cached = are_plain(like) and not is_traced()
    return (_level_sizes if cached else _level_sizes.__wrapped__)(shapes, like.dtype, like.device)


@functools.lru_cache(maxsize=256)
def _level_sizes(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else training could not use what a prediction cached
        return torch.tensor([(w, h) for h, w in shapes], dtype=dtype, device=device)
