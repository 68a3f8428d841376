"""The deformable decoder: queries read the memory, layer by layer (arXiv 2010.04159, sections 4.1 and A.4).

Queries come in groups, which share all weights and all work but self-attention: a group attends to itself and to the
groups that it names.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oddetr.models.autocast import lowered
from oddetr.models.deformable_attention import MultiScaleDeformableAttention, level_sizes
from oddetr.models.group_attention import GroupAttention, attention_of
from oddetr.models.heads import MLP, PredictionHead, inverse_sigmoid
from oddetr.models.position import sine_anchor_embedding
from oddetr.structures import Embeddings, Memory, Predictions, Queries


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
        content: Embeddings,
        position: Embeddings,
        anchors: Float[Tensor, "batch queries levels 4"],
        memory: Memory,
        groups: Sequence[GroupAttention],
    ) -> Embeddings:
        """Returns the new content.

        Args:
            anchors: boxes relative to each level's padded map.
            groups: in the order in which their queries follow one another.
        """
        lengths = [group.length for group in groups]
        placed, values = (lowered(each).split(lengths, dim=1) for each in (content + position, content))
        weights = self._attention_weights()
        attended = torch.cat([self._attend(placed, values, group, weights) for group in groups], dim=1)
        content = self.norm2(content + self.dropout(attended))
        read = self.cross_attn(content + position, anchors, memory.tokens, memory.padding_mask, memory.shapes)
        content = self.norm1(content + self.dropout(read))
        hidden = self.dropout(self.linear1(content).relu())
        return self.norm3(content + self.dropout(self.linear2(hidden)))

    def _attention_weights(self) -> dict[str, Tensor]:
        """The weights of self-attention, which all groups share."""
        inward, outward = self.self_attn, self.self_attn.out_proj
        weights = {"in_proj_weight": inward.in_proj_weight, "in_proj_bias": inward.in_proj_bias}
        weights |= {"out_proj_weight": outward.weight, "out_proj_bias": outward.bias}
        return {name: lowered(weight) for name, weight in weights.items()}

    def _attend(
        self,
        placed: Sequence[Tensor],
        values: Sequence[Tensor],
        group: GroupAttention,
        weights: Mapping[str, Tensor],
    ) -> Tensor:
        own = group.keys[0]
        query, key, value = placed[own], placed[own], values[own]
        if len(group.keys) > 1:
            key, value = (torch.cat([parts[index] for index in group.keys], dim=1) for parts in (placed, values))
        # What `nn.MultiheadAttention` computes, which would cast its weights for each group.
        attended, _ = F.multi_head_attention_forward(
            *(each.transpose(0, 1) for each in (query, key, value)),
            embed_dim_to_check=self.self_attn.embed_dim,
            num_heads=self.self_attn.num_heads,
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=self.self_attn.dropout,
            training=self.training,
            key_padding_mask=group.key_padding_mask,
            attn_mask=group.attn_mask,
            need_weights=False,
            **weights,
        )
        return attended.transpose(0, 1)


class AnchorPosition(nn.Module):
    """Position embeddings of anchors, computed before each layer (DAB-DETR, arXiv 2201.12329, eq. 3 and 5).

    position = MLP(sine(anchor)), and from the second layer on, if scaled, times MLP(content)

    Args:
        scaled: DAB-DETR's; DINO's is not.
    """

    def __init__(self, width: int, scaled: bool) -> None:
        super().__init__()
        self.embed = MLP(512, width, width, depth=2)
        self.scale = MLP(width, width, width, depth=2) if scaled else None
        for linear in self.modules():
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight)

    def forward(self, anchors: Float[Tensor, "batch queries 4"], content: Embeddings, layer: int) -> Embeddings:
        """Before the layer of this index; `anchors` relative to the first level's padded map, as officially."""
        position = self.embed(sine_anchor_embedding(anchors))
        return position if self.scale is None or layer == 0 else position * self.scale(content)


class DeformableDecoder(nn.Module):
    """Layers and the heads that predict from each layer's output.

    Args:
        heads: one for all layers, or one per layer.
        refine_anchors: each layer's box, without gradient, is the next layer's anchor (iterative box refinement);
            otherwise every layer samples around, and corrects, the initial anchor.
        position: computes position embeddings before each layer; None: queries have their own, the same for all layers.
        norm: normalises a layer's output for the heads; the next anchor is refined from the output before it (DINO).
            None: heads read the output itself.
        look_forward_twice: a box is the correction of the last layer's refined anchor with its gradient, so that each
            layer learns from the next one's box too (DINO, arXiv 2203.03605, section 3.5).
        eps: anchors are clamped to this distance from 0 and 1 before their logits are taken.

    Raises:
        ValueError: neither one head nor one per layer.
    """

    def __init__(
        self,
        layers: list[DecoderLayer],
        heads: list[PredictionHead],
        refine_anchors: bool,
        position: AnchorPosition | None = None,
        norm: nn.LayerNorm | None = None,
        look_forward_twice: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if len(heads) not in (1, len(layers)):
            raise ValueError(f"A decoder of {len(layers)} layers takes 1 or {len(layers)} heads, not {len(heads)}.")
        self.layers = nn.ModuleList(layers)
        self.heads = nn.ModuleList(heads)
        self.refine_anchors = refine_anchors
        self.position = position
        self.norm = norm
        self.look_forward_twice = look_forward_twice
        self.eps = eps
        self.points = layers[0].cross_attn.points

    def forward(self, memory: Memory, groups: Mapping[str, Queries]) -> dict[str, Predictions]:
        """Decodes all groups over `memory` in one pass; predictions of every layer, by the group's name."""
        queries = list(groups.values())
        content = torch.cat([group.content for group in queries], dim=1)
        attention = attention_of(groups)
        places = torch.cat([_on_levels(group.anchors, memory, self.points) for group in queries], dim=1)
        anchor_logits = box_logits = torch.cat([self._logits(group.anchors) for group in queries], dim=1)
        positions = [group.position for group in queries if group.position is not None]
        position = torch.cat(positions, dim=1) if positions else torch.zeros_like(content)
        stacked: list[tuple[Tensor, Tensor, Tensor]] = []
        for index, layer in enumerate(self.layers):
            if self.position:
                position = self.position(places[:, :, 0], content, index)
            content = layer(content, position, places, memory, attention)
            head = cast(PredictionHead, self.heads[index % len(self.heads)])
            logits, boxes = head(self.norm(content) if self.norm else content, box_logits)
            stacked.append((logits, boxes, content))
            if self.refine_anchors and index + 1 < len(self.layers):
                refined = head.refined(content, anchor_logits) if self.norm else boxes
                anchors = refined.detach()
                places, anchor_logits = _on_levels(anchors, memory, self.points), self._logits(anchors)
                box_logits = self._logits(refined) if self.look_forward_twice else anchor_logits
        lengths = [group.content.shape[1] for group in queries]
        logits, boxes, contents = (torch.stack(values).split(lengths, dim=2) for values in zip(*stacked, strict=True))
        return {name: Predictions(*parts) for name, *parts in zip(groups, logits, boxes, contents, strict=True)}

    def _logits(self, anchors: Tensor) -> Tensor:
        """Logits of anchors as boxes; a point's size has logit 0: the head predicts all of it."""
        return F.pad(inverse_sigmoid(anchors, self.eps), (0, 4 - anchors.shape[-1]))


def _on_levels(anchors: Tensor, memory: Memory, points: int) -> Tensor:
    """Anchors relative to the unpadded image -> boxes relative to each level's padded map: [B, N, levels, 4].

    An anchor that is a point becomes the box around which attention's offsets count in cells: 2 * points cells wide.
    """
    ratios = memory.valid_ratios.repeat(1, 1, anchors.shape[-1] // 2)
    placed = anchors[:, :, None] * ratios[:, None]
    if anchors.shape[-1] == 4:
        return placed
    sizes = 2 * points / level_sizes(memory.shapes, placed)
    return torch.cat([placed, sizes.expand_as(placed)], dim=-1)
