"""The deformable decoder: queries read the memory, layer by layer (arXiv 2010.04159, sections 4.1 and A.4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oddetr.models.deformable_attention import MultiScaleDeformableAttention
from oddetr.models.heads import PredictionHead, inverse_sigmoid
from oddetr.structures import Memory, Predictions, Queries


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable cross-attention to the memory, feed-forward network; post-norm."""

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
        anchors: Float[Tensor, "batch queries levels point_or_box"],
        memory: Memory,
    ) -> Float[Tensor, "batch queries width"]:
        """Returns the new content; `anchors` are relative to each level's padded map."""
        query = content + position
        attended, _ = self.self_attn(query, query, content, need_weights=False)
        content = self.norm2(content + self.dropout(attended))
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

    def forward(self, memory: Memory, queries: Queries) -> Predictions:
        """Decodes `queries` over `memory`; predictions of every layer."""
        content, anchors = queries.content, queries.anchors
        logits: list[Tensor] = []
        boxes: list[Tensor] = []
        contents: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            content = layer(content, queries.position, _on_levels(anchors, memory), memory)
            head = self.heads[index % len(self.heads)]
            layer_logits, layer_boxes = head(content, inverse_sigmoid(anchors))
            if self.refine_anchors:
                anchors = layer_boxes.detach()
            logits.append(layer_logits)
            boxes.append(layer_boxes)
            contents.append(content)
        return Predictions(torch.stack(logits), torch.stack(boxes), torch.stack(contents))


def _on_levels(anchors: Tensor, memory: Memory) -> Tensor:
    """Anchors relative to the unpadded image -> relative to each level's padded map: [B, N, levels, 2 or 4]."""
    ratios = memory.valid_ratios.repeat(1, 1, anchors.shape[-1] // 2)
    return anchors[:, :, None] * ratios[:, None]
