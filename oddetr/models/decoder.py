"""The deformable decoder: queries read the memory, layer by layer (arXiv 2010.04159, sections 4.1 and A.4).

Queries come in groups, which share every weight and all work but self-attention: a group is blind to the others.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from oddetr.models.deformable_attention import MultiScaleDeformableAttention
from oddetr.models.heads import PredictionHead, inverse_sigmoid
from oddetr.structures import Memory, Predictions, Queries

Group = tuple[int, Bool[Tensor, "batch _"] | None]
"""A group's number of queries, and which of them are padding."""


class DecoderLayer(nn.Module):
    """Self-attention within each group, deformable cross-attention to the memory, feed-forward network; post-norm."""

    def __init__(self, width: int, heads: int, levels: int, points: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attn = MultiScaleDeformableAttention(width, heads, levels, points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn_width)
        self.linear2 = nn.Linear(ffn_width, width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for weight in (self.self_attn.out_proj.weight, self.linear1.weight, self.linear2.weight):
            nn.init.xavier_uniform_(weight)

    def forward(
        self,
        content: Float[Tensor, "batch queries width"],
        position: Float[Tensor, "batch queries width"],
        anchors: Float[Tensor, "batch queries levels 4"],
        memory: Memory,
        groups: Sequence[Group],
    ) -> Float[Tensor, "batch queries width"]:
        """Returns the new content.

        Args:
            anchors: boxes relative to each level's padded map.
            groups: lengths and padding of the groups, in the order in which their queries follow one another.
        """
        lengths = [length for length, _ in groups]
        parts = zip((content + position).split(lengths, dim=1), content.split(lengths, dim=1), groups, strict=True)
        attended = [
            self.self_attn(query, query, value, key_padding_mask=padding, need_weights=False)[0]
            for query, value, (_, padding) in parts
        ]
        content = self.norm2(content + self.dropout(torch.cat(attended, dim=1)))
        read = self.cross_attn(content + position, anchors, memory.tokens, memory.padding_mask, memory.shapes)
        content = self.norm1(content + self.dropout(read))
        hidden = self.dropout(self.linear1(content).relu())
        return self.norm3(content + self.dropout(self.linear2(hidden)))


class DeformableDecoder(nn.Module):
    """Layers and the heads that predict from each layer's output.

    Args:
        layers: the decoder's layers.
        heads: one for all layers, or one per layer.
        refine_anchors: each layer's box, without gradient, is the next layer's anchor (iterative box refinement);
            otherwise every layer looks around, and corrects, the initial anchor.

    Raises:
        ValueError: neither one head nor one per layer.
    """

    def __init__(self, layers: list[DecoderLayer], heads: list[PredictionHead], refine_anchors: bool) -> None:
        super().__init__()
        if len(heads) not in (1, len(layers)):
            raise ValueError(f"A decoder of {len(layers)} layers takes 1 or {len(layers)} heads, not {len(heads)}.")
        self.layers = nn.ModuleList(layers)
        self.heads = nn.ModuleList(heads)
        self.refine_anchors = refine_anchors
        self.points = layers[0].cross_attn.points

    def forward(self, memory: Memory, groups: Mapping[str, Queries]) -> dict[str, Predictions]:
        """Decodes all groups over `memory` in one pass; predictions of every layer, by the group's name."""
        queries = list(groups.values())
        lengths = [group.content.shape[1] for group in queries]
        masks = list(zip(lengths, map(_padding, queries), strict=True))
        content = torch.cat([group.content for group in queries], dim=1)
        position = torch.cat([group.position for group in queries], dim=1)
        places = torch.cat([_on_levels(group.anchors, memory, self.points) for group in queries], dim=1)
        anchor_logits = torch.cat([_logits(group.anchors) for group in queries], dim=1)
        stacked: list[tuple[Tensor, Tensor, Tensor]] = []
        for index, layer in enumerate(self.layers):
            content = layer(content, position, places, memory, masks)
            logits, boxes = self.heads[index % len(self.heads)](content, anchor_logits)
            stacked.append((logits, boxes, content))
            if self.refine_anchors and index + 1 < len(self.layers):
                places, anchor_logits = _on_levels(boxes.detach(), memory, self.points), _logits(boxes.detach())
        logits, boxes, contents = (torch.stack(values).split(lengths, dim=2) for values in zip(*stacked, strict=True))
        return {name: Predictions(*parts) for name, *parts in zip(groups, logits, boxes, contents, strict=True)}


def _padding(queries: Queries) -> Tensor | None:
    """The group's padding as attention wants it. Of an image with nothing else, padding sees padding: nothing reads
    what comes out, and attention over nothing at all would be NaN."""
    if queries.padding is None:
        return None
    return queries.padding & ~queries.padding.all(dim=1, keepdim=True)


def _on_levels(anchors: Tensor, memory: Memory, points: int) -> Tensor:
    """Anchors relative to the unpadded image -> boxes relative to each level's padded map: [B, N, levels, 4].

    An anchor that is a point becomes the box around which attention's offsets count in cells: 2 * points cells wide.
    """
    ratios = memory.valid_ratios.repeat(1, 1, anchors.shape[-1] // 2)
    placed = anchors[:, :, None] * ratios[:, None]
    if anchors.shape[-1] == 4:
        return placed
    sizes = torch.tensor([(2 * points / w, 2 * points / h) for h, w in memory.shapes], device=placed.device)
    return torch.cat([placed, sizes.to(placed.dtype).expand_as(placed)], dim=-1)


def _logits(anchors: Tensor) -> Tensor:
    """Logits of anchors as boxes; a point's size has logit 0, and is all for the head to say."""
    return F.pad(inverse_sigmoid(anchors), (0, 4 - anchors.shape[-1]))
