"""Where the decoder's queries come from: learned slots, or the encoder's best proposals (two-stage)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from oddetr.models.encoder import token_centres
from oddetr.models.heads import PredictionHead
from oddetr.models.position import sine_box_embedding
from oddetr.structures import InitialQueries, Memory, Predictions, Queries


class LearnedQueries(nn.Module):
    """One learned content and position per slot; the anchor is a point read off the position."""

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.embedding = nn.Embedding(num_queries, 2 * width)
        self.reference_points = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory) -> InitialQueries:
        """The same queries for each image; identity is the slot."""
        batch = memory.tokens.shape[0]
        position, content = self.embedding.weight.chunk(2, dim=-1)
        anchors = self.reference_points(position).float().sigmoid()
        identity = torch.arange(self.num_queries, device=anchors.device)
        return InitialQueries(
            Queries(
                content=content.expand(batch, -1, -1),
                anchors=anchors.expand(batch, -1, -1),
                position=position.expand(batch, -1, -1),
                identity=identity.expand(batch, -1),
            )
        )

    def position(
        self, anchors: Float[Tensor, "batch queries point_or_box"], learned: Float[Tensor, "batch queries width"]
    ) -> Float[Tensor, "batch queries width"]:
        """Position embeddings of queries that have moved to `anchors`: what was learned goes along."""
        return learned


class TwoStageQueries(nn.Module):
    """The encoder predicts an object at each token; the best become the queries (arXiv 2010.04159, section A.4).

    Ranked, as officially, by the logit of the first class, which the proposals' loss teaches "is an object".

    Args:
        head: predicts classes and boxes from tokens.
    """

    def __init__(self, num_queries: int, width: int, head: PredictionHead) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.head = head
        self.token_projection = nn.Linear(width, width)
        self.token_norm = nn.LayerNorm(width)
        self.position_projection = nn.Linear(2 * width, 2 * width)
        self.position_norm = nn.LayerNorm(2 * width)
        for linear in (self.token_projection, self.position_projection):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, memory: Memory) -> InitialQueries:
        """Queries without gradient to their anchors; identity is the token's index. A small image may have fewer tokens
        than `num_queries`: then each gives a query."""
        tokens, width = memory.tokens.shape[1:]
        anchors, usable = token_anchors(memory)
        content = self.token_norm(self.token_projection(memory.tokens.masked_fill(~usable[..., None], 0.0)))
        logits, boxes = self.head(content, anchors)
        chosen = logits[..., 0].topk(min(self.num_queries, tokens), dim=1).indices
        chosen_boxes = boxes.detach().gather(1, chosen[..., None].expand(-1, -1, 4))
        position, slots = self._embed(chosen_boxes, width).chunk(2, dim=-1)
        return InitialQueries(
            Queries(content=slots, anchors=chosen_boxes, position=position, identity=chosen),
            proposals=Predictions(logits[None], boxes[None], content[None]),
        )

    def position(
        self, anchors: Float[Tensor, "batch queries 4"], learned: Float[Tensor, "batch queries width"]
    ) -> Float[Tensor, "batch queries width"]:
        """Position embeddings of queries that have moved to `anchors`: computed from them; nothing is learned."""
        return self._embed(anchors, learned.shape[-1]).chunk(2, dim=-1)[0]

    def _embed(self, boxes: Tensor, width: int) -> Tensor:
        return self.position_norm(self.position_projection(sine_box_embedding(boxes, width // 2)))


def token_anchors(memory: Memory) -> tuple[Float[Tensor, "batch tokens 4"], Bool[Tensor, "batch tokens"]]:
    """The logits of each token's anchor box (its centre; 0.05 * 2^level wide and high), and which tokens may propose.

    Tokens on padding, and those whose anchor is not inside (0.01, 0.99), may not; their anchor logits are infinite.
    """
    sizes = torch.cat(
        [
            torch.full((height * width,), 0.05 * 2.0**level, device=memory.tokens.device)
            for level, (height, width) in enumerate(memory.shapes)
        ]
    )
    centres = token_centres(memory)
    anchors = torch.cat([centres, sizes[:, None].expand(*centres.shape)], dim=-1)
    usable = ((anchors > 0.01) & (anchors < 0.99)).all(dim=-1) & ~memory.padding_mask
    return torch.logit(anchors).masked_fill(~usable[..., None], torch.inf), usable
