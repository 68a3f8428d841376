"""Contrastive denoising: noised objects are queries that learn to find the objects again (DINO, arXiv 2203.03605)."""

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from oddetr.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from oddetr.structures import AssignedQueries, GroundTruth, Queries


class ContrastiveDenoising(nn.Module):
    """Groups of noised objects. Each group has every object twice: with little noise (positive, to be found again) and
    with more (negative: background). A group attends to itself and to the detector's own queries, which do not attend
    to it (DINO, section 3.3).

    A corner of the box moves by up to `box_noise` of half the box's side, or, negative, by one to two times that. A
    label is replaced by a random one with probability `label_noise` / 2.

    Officially, the queries that pad images with fewer objects are attended to, and learn to be background; here they
    are masked.

    Args:
        num_classes: of objects.
        width: of queries.
        queries: there are max(1, queries // objects) groups, for the most objects that an image of the batch has.
        box_noise: lambda, in [0, 1]; 1 as in the released trainings (the configuration file's 0.4 is overridden there).
        label_noise: in [0, 1].
    """

    def __init__(
        self, num_classes: int, width: int, queries: int, box_noise: float = 1.0, label_noise: float = 0.5
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.queries, self.box_noise, self.label_noise = queries, box_noise, label_noise
        self.labels = nn.Embedding(num_classes + 1, width)

    def forward(self, truth: GroundTruth) -> AssignedQueries:
        """Draw noise from torch's generator of the device; returns at least one query, which may be padding."""
        batch, objects = len(truth.counts), max(1, *truth.counts)
        groups = max(1, self.queries // objects) if truth.total else 1
        sizes = (batch, groups, 2, objects)

        def spread(values: Tensor) -> Tensor:
            """[B, M, ...] -> [B, groups, positive and negative, M, ...], without further padding."""
            values = values[:, None, None, :objects]
            return values.expand(*sizes, *values.shape[4:])

        labels = spread(truth.labels.clamp(min=0))
        replaced = torch.rand(sizes, device=labels.device) < self.label_noise / 2
        labels = torch.where(replaced, torch.randint_like(labels, self.num_classes), labels)

        boxes = spread(truth.boxes)
        amount = torch.rand_like(boxes)
        amount[:, :, 1] += 1
        sign = torch.randint_like(boxes, 2) * 2 - 1
        halves = boxes[..., 2:].repeat(1, 1, 1, 1, 2) / 2
        corners = cxcywh_to_xyxy(boxes) + sign * amount * halves * self.box_noise
        anchors = xyxy_to_cxcywh(corners.clamp(0, 1)).clamp(min=0)

        padding = spread(~truth.valid)
        index = torch.arange(objects, device=labels.device).expand(sizes).clone()
        index[:, :, 1] = -1
        queries = Queries(
            content=self.labels(labels.flatten(1)),
            anchors=anchors.flatten(1, 3),
            position=None,
            identity=torch.arange(groups * 2 * objects, device=labels.device).expand(batch, -1),
            padding=padding.flatten(1),
            attention_mask=_other_groups(groups, 2 * objects, labels.device),
            attends_to=("own",),
        )
        return AssignedQueries(queries, index.masked_fill(padding, -1).flatten(1), repeats=groups)


def _other_groups(groups: int, length: int, device: torch.device) -> Bool[Tensor, "queries queries"]:
    group = torch.arange(groups, device=device).repeat_interleave(length)
    return group[:, None] != group[None]
