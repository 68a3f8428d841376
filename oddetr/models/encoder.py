"""The feature pyramid and the deformable encoder: maps of the backbone -> Memory (arXiv 2010.04159, section 4.1)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from oddetr.models.deformable_attention import MultiScaleDeformableAttention
from oddetr.models.position import sine_position_map
from oddetr.structures import Memory, PaddingMask


class FeaturePyramid(nn.Module):
    """Brings each map to the same width, and adds coarser levels by 3x3 convolutions of stride 2.

    Args:
        channels: of the backbone's maps, finest first.
        levels: of the pyramid, at least as many as there are maps.
    """

    def __init__(self, channels: Sequence[int], width: int, levels: int) -> None:
        super().__init__()
        if levels < len(channels):
            raise ValueError(
                f"A pyramid of {levels} levels cannot hold the backbone's {len(channels)} maps; use at least as many."
            )
        if width % 32:
            raise ValueError(f"The width ({width}) must be a multiple of 32: the pyramid normalises in 32 groups.")
        sizes = [(count, 1, 1) for count in channels]
        sizes += [(channels[-1] if extra == 0 else width, 3, 2) for extra in range(levels - len(channels))]
        self.projections = nn.ModuleList(_projection(count, width, kernel, stride) for count, kernel, stride in sizes)

    def forward(self, maps: Sequence[Float[Tensor, "batch _ _ _"]]) -> list[Float[Tensor, "batch width _ _"]]:
        """The levels, finest first; each added level is computed from the one before, the first from the last map."""
        levels = [projection(features) for projection, features in zip(self.projections, maps, strict=False)]
        source = maps[-1]
        for projection in self.projections[len(maps) :]:
            source = projection(source)
            levels.append(source)
        return levels


def _projection(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(cast(Tensor, convolution.bias))
    return nn.Sequential(convolution, nn.GroupNorm(32, width))


class EncoderLayer(nn.Module):
    """Deformable self-attention over all tokens of all levels, then a feed-forward network; post-norm."""

    def __init__(self, width: int, heads: int, levels: int, points: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(width, heads, levels, points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn_width)
        self.linear2 = nn.Linear(ffn_width, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        memory: Memory,
        position: Float[Tensor, "batch tokens width"],
        anchors: Float[Tensor, "batch tokens levels 2"],
    ) -> Memory:
        """The memory with new tokens."""
        tokens = memory.tokens
        read = self.self_attn(tokens + position, anchors, tokens, memory.padding_mask, memory.shapes)
        tokens = self.norm1(tokens + self.dropout(read))
        hidden = self.dropout(self.linear1(tokens).relu())
        return replace(memory, tokens=self.norm2(tokens + self.dropout(self.linear2(hidden))))


class DeformableEncoder(nn.Module):
    """Encodes the levels of a pyramid.

    Args:
        position: padding mask of a level, width -> its position embedding.

    Raises:
        ValueError: sizes that do not fit together (in the parts' constructors).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        levels: int,
        points: int,
        ffn_width: int,
        num_layers: int,
        dropout: float,
        position: Callable[[Tensor, int], Tensor] = sine_position_map,
    ) -> None:
        super().__init__()
        self.position = position
        self.level_embed = nn.Parameter(torch.randn(levels, width))
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, levels, points, ffn_width, dropout) for _ in range(num_layers)
        )

    def forward(self, levels: Sequence[Float[Tensor, "batch width _ _"]], padding_mask: PaddingMask) -> Memory:
        """Encodes `levels`; `padding_mask` is that of the images, at their size."""
        masks = [resize_mask(padding_mask, level.shape[-2:]) for level in levels]
        width = levels[0].shape[1]
        positions = [self.position(mask, width) + embed for mask, embed in zip(masks, self.level_embed, strict=True)]
        position = torch.cat([each.flatten(1, 2) for each in positions], dim=1)
        memory = Memory(
            tokens=torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1),
            padding_mask=torch.cat([mask.flatten(1) for mask in masks], dim=1),
            shapes=tuple((level.shape[-2], level.shape[-1]) for level in levels),
            valid_ratios=torch.stack([valid_ratio(mask) for mask in masks], dim=1),
        )
        anchors = token_centres(memory)[:, :, None] * memory.valid_ratios[:, None]
        for layer in self.layers:
            memory = layer(memory, position, anchors)
        return memory


def token_centres(memory: Memory) -> Float[Tensor, "batch tokens 2"]:
    """(x, y) of each token's centre relative to the unpadded image; beyond 1 on padding."""
    centres: list[Tensor] = []
    for (height, width), ratio in zip(memory.shapes, memory.valid_ratios.unbind(1), strict=True):
        y, x = torch.meshgrid(
            (torch.arange(height, device=ratio.device) + 0.5) / height,
            (torch.arange(width, device=ratio.device) + 0.5) / width,
            indexing="ij",
        )
        centres.append(torch.stack([x, y], dim=-1).flatten(0, 1) / ratio[:, None])
    return torch.cat(centres, dim=1)


def resize_mask(mask: Tensor, size: torch.Size) -> Tensor:
    """`F.interpolate` by indices, of which ONNX Runtime rounds none: of 240 rows to 8 it takes 179 for 180."""
    rows, columns = (
        (torch.arange(new, device=mask.device) * (old / new)).long().clamp(max=old - 1)
        for old, new in zip(mask.shape[-2:], size, strict=True)
    )
    return mask.index_select(1, rows).index_select(2, columns)


def valid_ratio(mask: Bool[Tensor, "batch height width"]) -> Float[Tensor, "batch 2"]:
    """(width, height) of the unpadded part over the padded map's; `mask` is True on padding."""
    return torch.stack([(~mask[:, 0, :]).float().mean(dim=1), (~mask[:, :, 0]).float().mean(dim=1)], dim=-1)
