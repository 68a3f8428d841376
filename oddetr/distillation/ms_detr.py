"""MS-DETR (arXiv 2401.03989): one-to-many supervision of the detector's own queries, through extra class heads."""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from oddetr.boxes import iou
from oddetr.distillation.group import Solution, Supervision
from oddetr.losses.detection import Classification, DetectionLoss, detection_loss
from oddetr.losses.matching import marked_queries
from oddetr.models.decoder import DeformableDecoder
from oddetr.models.heads import PredictionHead
from oddetr.structures import GroundTruth, Predictions

BOX_SHARE = 0.7
"""Weight of the IoU in the match quality; the rest weighs the probability of the object's class."""
THRESHOLD = 0.4
"""Least match quality of a positive query."""


def one_to_many(predictions: Predictions, truth: GroundTruth, most: int) -> Int64[Tensor, "layers batch queries"]:
    """One-to-many assignment, following the authors' code.

    1. The match quality of a query and an object is 0.7 IoU + 0.3 p, p the probability of the object's class.
    2. A query is positive for its best object if their quality is at least 0.4, or if it is some object's best query.
    3. An object with n positive queries claims its min(n, `most`) best queries.
    4. A query claimed by several objects gets the one of highest quality.

    (Where more than a quarter of the queries are positive the authors sample some at random; we keep all.)
    """
    with torch.no_grad():
        layers, batch, queries, _ = predictions.logits.shape
        objects = truth.labels.shape[1]
        columns = truth.labels.clamp(min=0)[None, :, None].expand(layers, -1, queries, -1)
        overlap = iou(predictions.boxes[..., None, :], truth.boxes.expand(layers, -1, -1, -1)[..., None, :, :])
        quality = BOX_SHARE * overlap + (1 - BOX_SHARE) * predictions.logits.float().sigmoid().gather(-1, columns)
        quality = quality.masked_fill(~truth.valid[:, None], -1.0)
        value, best = quality.max(dim=-1)
        top = quality.topk(min(most, queries), dim=2)
        first = marked_queries(top.indices[:, :, 0], truth.valid.expand(layers, -1, -1), queries)
        positive = (value >= THRESHOLD) | first
        number = torch.zeros(layers, batch, objects, device=value.device).scatter_add(-1, best, positive.float())
        rank = torch.arange(top.indices.shape[2], device=value.device)[:, None]
        kept = top.values.masked_fill(rank >= number[:, :, None], -1.0)
        claims = torch.full_like(quality, -1.0).scatter(2, top.indices, kept)
        claim, item = claims.max(dim=-1)
        return torch.where(claim >= 0, item, -1)


class OneToManyHeads(nn.Module):
    """A class head per decoder layer, for training only; the boxes are the detector's.

    Args:
        decoder: the heads start as copies of its class heads.
        most: maximum number of queries per object.
    """

    def __init__(self, decoder: DeformableDecoder, most: int) -> None:
        super().__init__()
        heads = [
            cast(PredictionHead, decoder.heads[index % len(decoder.heads)]) for index in range(len(decoder.layers))
        ]
        self.classes = nn.ModuleList(copy.deepcopy(head.classes) for head in heads)
        self.most = most

    def forward(self, predictions: Predictions, norm: nn.Module | None) -> Predictions:
        """The predictions with the logits of these heads; `norm` is applied to the content first."""
        contents = predictions.content.float()
        seen = norm(contents) if norm else contents
        logits = torch.stack([head(content) for head, content in zip(self.classes, seen, strict=True)])
        return Predictions(logits, predictions.boxes, predictions.content)


@dataclass(frozen=True)
class Mixed(Supervision):
    """MS-DETR's one-to-many supervision of the detector's own queries.

    Attributes:
        truth: the objects.
        heads: the extra class heads.
        norm: the decoder's output norm.
    """

    truth: GroundTruth
    heads: OneToManyHeads
    norm: nn.Module | None

    def loss(
        self, predictions: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """The detection loss under the one-to-many assignment, divided by the objects, as in the authors' code."""
        predictions = self.heads(predictions, self.norm)
        assignment = one_to_many(predictions, self.truth, self.heads.most)
        return detection_loss(predictions, self.truth, (assignment,), objects, classification)
