"""Sources of the decoder's queries: learned slots or anchors, or the encoder's best proposals."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from oddetr.models.encoder import token_centres
from oddetr.models.heads import PredictionHead
from oddetr.models.position import sine_box_embedding
from oddetr.structures import Anchors, Embeddings, InitialQueries, Memory, Predictions, Queries


class QuerySource(nn.Module):
    """Base class: makes the detector's queries of a memory.

    Attributes:
        class_agnostic: whether proposals find objects of any class: the first output of their head means "is an
            object".
    """

    class_agnostic = False

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.num_queries, self.width = num_queries, width

    def forward(self, memory: Memory) -> InitialQueries:
        """The queries of each image."""
        raise NotImplementedError

    def another(self, num_queries: int) -> "QuerySource":
        """A source of the same kind and width with this number of queries, and weights of its own."""
        return type(self)(num_queries, self.width)

    def position(self, anchors: Anchors, learned: Embeddings) -> Embeddings:
        """Position embeddings of queries that have moved to `anchors`: the learned ones."""
        return learned


class LearnedQueries(QuerySource):
    """One learned content and position per slot; the anchor is a point read off the position."""

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__(num_queries, width)
        self.embedding = nn.Embedding(num_queries, 2 * width)
        self.reference_points = nn.Linear(width, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory) -> InitialQueries:
        """The same queries for each image; identity is the slot."""
        position, content = self.embedding.weight.chunk(2, dim=-1)
        anchors = self.reference_points(position).float().sigmoid()
        return InitialQueries(same_queries(memory, content, anchors, position))


class LearnedAnchors(QuerySource):
    """One learned content and anchor box per slot (DAB-DETR, arXiv 2201.12329); the decoder computes positions."""

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__(num_queries, width)
        self.content = nn.Embedding(num_queries, width)
        self.anchor_logits = nn.Embedding(num_queries, 4)

    def forward(self, memory: Memory) -> InitialQueries:
        """The same queries for each image; identity is the slot."""
        anchors = self.anchor_logits.weight.float().sigmoid()
        return InitialQueries(same_queries(memory, self.content.weight, anchors, None))


class ProposedQueries(QuerySource):
    """Base of two-stage query sources: the encoder predicts an object at each token, and the best become anchors.

    Args:
        head: predicts classes and boxes from tokens.
    """

    def __init__(self, num_queries: int, width: int, head: PredictionHead) -> None:
        super().__init__(num_queries, width)
        self.head = head
        self.token_projection = nn.Linear(width, width)
        self.token_norm = nn.LayerNorm(width)

    def another(self, num_queries: int) -> "ProposedQueries":
        """See `QuerySource`; it has a new head of its own."""
        return type(self)(num_queries, self.width, PredictionHead(self.width, self.head.classes.out_features))

    def proposals(self, memory: Memory) -> Predictions:
        """The prediction of each token, as one layer."""
        anchors, usable = token_anchors(memory)
        content = self.token_norm(self.token_projection(memory.tokens.masked_fill(~usable[..., None], 0.0)))
        logits, boxes = self.head(content, anchors)
        return Predictions(logits[None], boxes[None], content[None])

    def best(self, scores: Float[Tensor, "batch tokens"]) -> Int64[Tensor, "batch queries"]:
        """The tokens with the best scores. All of them where an image has fewer than `num_queries`."""
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
        anchors = gather_tokens(proposals.boxes[0].detach(), chosen)
        position, content = self._embed(anchors)
        return InitialQueries(Queries(content, anchors, position, identity=chosen), proposals, self.class_agnostic)

    def position(self, anchors: Anchors, learned: Embeddings) -> Embeddings:
        """Position embeddings of queries that have moved to `anchors`: computed from them; nothing is learned."""
        return self._embed(anchors)[0]

    def _embed(self, boxes: Tensor) -> tuple[Tensor, ...]:
        waves = sine_box_embedding(boxes, self.width // 2)
        return self.position_norm(self.position_projection(waves)).chunk(2, dim=-1)


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
        tokens = self.proposals(memory)
        chosen = self.best(tokens.logits[0].amax(dim=-1))
        logits, boxes, content = (
            gather_tokens(each[0], chosen) for each in (tokens.logits, tokens.boxes, tokens.content)
        )
        slots = self.content.weight[: chosen.shape[1]].expand(chosen.shape[0], -1, -1)
        queries = Queries(slots, boxes.detach(), position=None, identity=chosen)
        return InitialQueries(queries, Predictions(logits[None], boxes[None], content[None]))


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


def gather_tokens(
    values: Float[Tensor, "batch tokens any"], chosen: Int64[Tensor, "batch queries"]
) -> Float[Tensor, "batch queries any"]:
    """The rows of `values` that belong to the chosen tokens."""
    return values.gather(1, chosen[..., None].expand(-1, -1, values.shape[-1]))


def same_queries(memory: Memory, content: Tensor, anchors: Tensor, position: Tensor | None) -> Queries:
    """The same queries for each image of a batch, whose number stays symbolic in an export; identity is the slot."""
    batch = memory.tokens.shape[0]
    return Queries(
        content=content.expand(batch, -1, -1),
        anchors=anchors.expand(batch, -1, -1),
        position=None if position is None else position.expand(batch, -1, -1),
        identity=torch.arange(len(content), device=content.device).expand(batch, -1),
    )
