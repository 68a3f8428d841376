"""Sources of the decoder's queries: learned slots or anchors, or the encoder's best proposals."""

from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from oddetr.models.encoder import token_centres
from oddetr.models.heads import PredictionHead
from oddetr.models.position import sine_box_embedding
from oddetr.structures import InitialQueries, Memory, Predictions, Queries


class QuerySource(Protocol):
    """A module: Memory -> InitialQueries."""

    num_queries: int
    class_agnostic: bool
    """Whether proposals find objects of any class: the first output of their head means "is an object"."""

    def __call__(self, memory: Memory) -> InitialQueries:
        """The queries of each image."""
        ...

    def another(self, num_queries: int) -> nn.Module:
        """A source of the same kind and width with this number of queries, and weights of its own."""
        ...


class LearnedQueries(nn.Module):
    """One learned content and position per slot; the anchor is a point read off the position."""

    class_agnostic = False

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.num_queries, self.width = num_queries, width
        self.embedding = nn.Embedding(num_queries, 2 * width)
        self.reference_points = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory) -> InitialQueries:
        """The same queries for each image; identity is the slot."""
        batch = memory.tokens.shape[0]
        position, content = self.embedding.weight.chunk(2, dim=-1)
        anchors = self.reference_points(position).float().sigmoid()
        return InitialQueries(
            Queries(
                content=content.expand(batch, -1, -1),
                anchors=anchors.expand(batch, -1, -1),
                position=position.expand(batch, -1, -1),
                identity=_slots(self.num_queries, memory),
            )
        )

    def another(self, num_queries: int) -> "LearnedQueries":
        """See `QuerySource`."""
        return LearnedQueries(num_queries, self.width)

    def position(
        self, anchors: Float[Tensor, "batch queries point_or_box"], learned: Float[Tensor, "batch queries width"]
    ) -> Float[Tensor, "batch queries width"]:
        """Position embeddings of queries that have moved to `anchors`: the learned ones."""
        return learned


class LearnedAnchors(nn.Module):
    """One learned content and anchor box per slot (DAB-DETR, arXiv 2201.12329); the decoder computes positions."""

    class_agnostic = False

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.num_queries, self.width = num_queries, width
        self.content = nn.Embedding(num_queries, width)
        self.anchor_logits = nn.Embedding(num_queries, 4)

    def forward(self, memory: Memory) -> InitialQueries:
        """The same queries for each image; identity is the slot."""
        batch = memory.tokens.shape[0]
        anchors = self.anchor_logits.weight.float().sigmoid()
        return InitialQueries(
            Queries(
                content=self.content.weight.expand(batch, -1, -1),
                anchors=anchors.expand(batch, -1, -1),
                position=None,
                identity=_slots(self.num_queries, memory),
            )
        )

    def another(self, num_queries: int) -> "LearnedAnchors":
        """See `QuerySource`."""
        return LearnedAnchors(num_queries, self.width)


class ProposedQueries(nn.Module):
    """Base of two-stage query sources: the encoder predicts an object at each token, and the best become anchors.

    Args:
        head: predicts classes and boxes from tokens.
    """

    class_agnostic = False

    def __init__(self, num_queries: int, width: int, head: PredictionHead) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.head = head
        self.token_projection = nn.Linear(width, width)
        self.token_norm = nn.LayerNorm(width)

    def another(self, num_queries: int) -> "ProposedQueries":
        """See `QuerySource`; it has a new head of its own."""
        width, classes = self.head.classes.in_features, self.head.classes.out_features
        return type(self)(num_queries, width, PredictionHead(width, classes))

    def proposals(self, memory: Memory) -> Predictions:
        """The prediction of each token, as one layer."""
        anchors, usable = token_anchors(memory)
        content = self.token_norm(self.token_projection(memory.tokens.masked_fill(~usable[..., None], 0.0)))
        logits, boxes = self.head(content, anchors)
        return Predictions(logits[None], boxes[None], content[None])

    def best(self, scores: Float[Tensor, "batch tokens"]) -> Int64[Tensor, "batch queries"]:
        """The tokens with the best scores. A small image may have fewer than `num_queries`: then each gives a query."""
        return scores.topk(min(self.num_queries, scores.shape[1]), dim=1).indices


class TwoStageQueries(ProposedQueries):
    """Contents and positions are computed from the chosen anchors (arXiv 2010.04159, section A.4).

    Ranked, as officially, by the logit of the first class, which the proposals' loss teaches "is an object".
    """

    class_agnostic = True

    def __init__(self, num_queries: int, width: int, head: PredictionHead) -> None:
        super().__init__(num_queries, width, head)
        self.position_projection = nn.Linear(2 * width, 2 * width)
        self.position_norm = nn.LayerNorm(2 * width)
        for linear in (self.token_projection, self.position_projection):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, memory: Memory) -> InitialQueries:
        """Queries without gradient to their anchors; identity is the token's index."""
        proposals = self.proposals(memory)
        chosen = self.best(proposals.logits[0, ..., 0])
        anchors = _at(proposals.boxes[0].detach(), chosen)
        position, content = self._embed(anchors, memory.tokens.shape[-1]).chunk(2, dim=-1)
        queries = Queries(content, anchors, position, identity=chosen)
        return InitialQueries(queries, proposals, self.class_agnostic)

    def position(
        self, anchors: Float[Tensor, "batch queries 4"], learned: Float[Tensor, "batch queries width"]
    ) -> Float[Tensor, "batch queries width"]:
        """Position embeddings of queries that have moved to `anchors`: computed from them; nothing is learned."""
        return self._embed(anchors, learned.shape[-1]).chunk(2, dim=-1)[0]

    def _embed(self, boxes: Tensor, width: int) -> Tensor:
        return self.position_norm(self.position_projection(sine_box_embedding(boxes, width // 2)))


class MixedQueries(ProposedQueries):
    """Contents are learned, one per slot; anchors are chosen from the encoder (DINO's mixed query selection, arXiv
    2203.03605, section 3.4); the decoder computes positions.

    Ranked by the best class's logit. Only the chosen proposals are supervised, with classes, as officially.
    """

    def __init__(self, num_queries: int, width: int, head: PredictionHead) -> None:
        super().__init__(num_queries, width, head)
        self.content = nn.Embedding(num_queries, width)
        for weight in (self.token_projection.weight, self.content.weight):
            nn.init.xavier_uniform_(weight)

    def forward(self, memory: Memory) -> InitialQueries:
        """Queries without gradient to their anchors; identity is the token's index."""
        all_tokens = self.proposals(memory)
        chosen = self.best(all_tokens.logits[0].amax(dim=-1))
        proposals = Predictions(
            *(_at(each[0], chosen)[None] for each in (all_tokens.logits, all_tokens.boxes, all_tokens.content))
        )
        content = self.content.weight[: chosen.shape[1]].expand(chosen.shape[0], -1, -1)
        queries = Queries(content, proposals.boxes[0].detach(), position=None, identity=chosen)
        return InitialQueries(queries, proposals)


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


def _slots(num_queries: int, memory: Memory) -> Tensor:
    return torch.arange(num_queries, device=memory.tokens.device).expand(memory.tokens.shape[0], -1)


def _at(values: Tensor, chosen: Tensor) -> Tensor:
    """[B, T, ...] at the chosen tokens: [B, N, ...]."""
    return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))
