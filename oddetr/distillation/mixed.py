"""MS-DETR: the detector's own queries learn one-to-many, too, by class heads of their own (arXiv 2401.03989)."""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from oddetr.boxes import iou
from oddetr.distillation.group import Solution, Supervision
from oddetr.losses.detection import Classification, DetectionLoss, detection_loss
from oddetr.models.decoder import DeformableDecoder
from oddetr.models.heads import PredictionHead
from oddetr.structures import GroundTruth, Predictions

BOX_SHARE = 0.7
"""Of the match quality, the share of the IoU; the rest is the probability of the object's class."""
THRESHOLD = 0.4
"""The match quality from which on a query is positive."""


def one_to_many(found: Predictions, truth: GroundTruth, most: int) -> Int64[Tensor, "layers batch queries"]:
    """The objects of the queries, several of which may have the same object, as in the authors' code.

    The quality of a pair is 0.7 IoU + 0.3 p. A query is positive for the object it fits best if their quality is at
    least 0.4, or if no other query fits the object better. As many of an object's best queries as it has positives, at
    most `most`, learn it; a query that two objects claim learns the one that it fits better. (The authors draw at
    random where more than a quarter of the queries are positive; here all are kept.)
    """
    with torch.no_grad():
        layers, batch, queries, _ = found.logits.shape
        objects = truth.labels.shape[1]
        columns = truth.labels.clamp(min=0)[None, :, None].expand(layers, -1, queries, -1)
        overlap = iou(found.boxes[..., None, :], truth.boxes.expand(layers, -1, -1, -1)[..., None, :, :])
        quality = BOX_SHARE * overlap + (1 - BOX_SHARE) * found.logits.float().sigmoid().gather(-1, columns)
        quality = quality.masked_fill(~truth.valid[:, None], -1.0)
        value, best = quality.max(dim=-1)
        first = torch.zeros_like(value, dtype=torch.bool).scatter(-1, quality.argmax(dim=2), True)
        positive = (value >= THRESHOLD) | (first & (value >= 0))
        number = torch.zeros(layers, batch, objects, device=value.device).scatter_add(-1, best, positive.float())
        top = quality.topk(min(most, queries), dim=2)
        rank = torch.arange(top.indices.shape[2], device=value.device)[:, None]
        kept = top.values.masked_fill(rank >= number[:, :, None], -1.0)
        claims = torch.full_like(quality, -1.0).scatter(2, top.indices, kept)
        claim, item = claims.max(dim=-1)
        return torch.where(claim >= 0, item, -1)


class OneToManyHeads(nn.Module):
    """A class head for each decoder layer, which only training has; boxes are those of the detector.

    Args:
        decoder: whose queries learn; the heads start equal to its class heads.
        most: queries that may learn the same object.
    """

    def __init__(self, decoder: DeformableDecoder, most: int) -> None:
        super().__init__()
        heads = [
            cast(PredictionHead, decoder.heads[index % len(decoder.heads)]) for index in range(len(decoder.layers))
        ]
        self.classes = nn.ModuleList(copy.deepcopy(head.classes) for head in heads)
        self.most = most

    def forward(self, found: Predictions, norm: nn.Module | None) -> Predictions:
        """The same predictions with the logits of these heads; `norm`: through which they see a layer's output."""
        contents = found.content.float()
        seen = norm(contents) if norm else contents
        logits = torch.stack([head(content) for head, content in zip(self.classes, seen, strict=True)])
        return Predictions(logits, found.boxes, found.content)


@dataclass(frozen=True)
class Mixed(Supervision):
    """MS-DETR's one-to-many supervision of the detector's own queries.

    Attributes:
        truth: the objects.
        heads: its class heads.
        norm: of the decoder's outputs.
    """

    truth: GroundTruth
    heads: OneToManyHeads
    norm: nn.Module | None

    def loss(
        self, found: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """The detection loss under the one-to-many assignment, divided by the objects, as in the authors' code."""
        found = self.heads(found, self.norm)
        assignment = one_to_many(found, self.truth, self.heads.most)
        return detection_loss(found, self.truth, (assignment,), objects, classification)
