"""Which query learns which object: a cost for every pair, and the cheapest assignment (DETR, arXiv 2005.12872)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from oddetr.boxes import generalized_iou, pairwise_l1
from oddetr.structures import GroundTruth, Predictions


class NonFiniteCostError(FloatingPointError):
    """A matching cost is NaN or infinite: the predictions are.

    Attributes:
        images: the indices in the batch.
        found: of a training step, what it would have given had nothing been wrong: its loss, which is NaN, and the
            loss's parts. A process that trains with others goes on with it, so that they all learn of it by the
            gradient.
    """

    def __init__(self, images: tuple[int, ...], found: dict[str, Tensor] | None = None) -> None:
        super().__init__(
            f"The matching cost is not finite for image {', '.join(map(str, images))} of the batch: the detector "
            "predicts NaN or infinity. The training has diverged (try a lower learning rate, or float32)."
        )
        self.images = images
        self.found = found or {}


@dataclass(frozen=True)
class MatchingWeights:
    """Weights of the cost's parts; the defaults are Deformable-DETR's, and those of DAB-DETR and DINO.

    Attributes:
        classes, l1, giou: at least 0.
        position_modulated: the class's probability counts as p u^(1/2) with u = (GIoU + 1) / 2 over the greatest u of
            an object of the image, so that a confident query far from an object is no candidate for it (Stable-DINO's
            cost, arXiv 2304.04742, as in its code; but there the greatest u is that of the batch's objects, and those
            of one class overwrite each other's).

    Raises:
        ValueError: a negative weight.
    """

    classes: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    position_modulated: bool = False

    def __post_init__(self) -> None:
        for name in ("classes", "l1", "giou"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"matching.{name} is {getattr(self, name)}; it must be at least 0.")


def matching_cost(
    predictions: Predictions, truth: GroundTruth, weights: MatchingWeights
) -> Float[Tensor, "layers batch queries objects"]:
    """The cost of every query for every object, in float32, all layers at once.

    cost = w_class (f+ - f-) + w_l1 |box - object|_1 - w_giou GIoU(box, object)
    f+ = a (1 - p)^g (-log p),  f- = (1 - a) p^g (-log(1 - p)),  a = 1/4, g = 2,  p the object's class's probability.

    A query that predicts anything NaN or infinite costs NaN for every object, so that `hungarian` finds it, objects or
    not. Columns of padded objects mean nothing else.
    """
    with torch.no_grad():
        layers, _, queries, _ = predictions.logits.shape
        columns = truth.labels.clamp(min=0)[None, :, None].expand(layers, -1, queries, -1)
        boxes = truth.boxes.expand(layers, -1, -1, -1)
        giou = generalized_iou(predictions.boxes[..., None, :], boxes[..., None, :, :])
        probabilities = predictions.logits.float().gather(-1, columns).sigmoid()
        if weights.position_modulated:
            near = ((giou + 1) / 2).masked_fill(~truth.valid[:, None], 0).clamp(min=0)
            probabilities = probabilities * (near / near.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)).sqrt()
        positive = 0.25 * (1 - probabilities) ** 2 * -(probabilities + 1e-8).log()
        negative = 0.75 * probabilities**2 * -(1 - probabilities + 1e-8).log()
        cost = (
            weights.classes * (positive - negative)
            + weights.l1 * pairwise_l1(predictions.boxes, boxes)
            - weights.giou * giou
        )
        finite = predictions.logits.isfinite().all(dim=-1) & predictions.boxes.isfinite().all(dim=-1)
        return cost.masked_fill(~finite[..., None], torch.nan)


@dataclass(frozen=True)
class Solved:
    """Solutions of several matchings.

    Attributes:
        assignments: for each cost tensor its `Assignment` [layers, batch, queries]. An image with more objects than
            queries leaves the objects without a query that cost the most.
        bad: the images with a cost that is NaN or infinite, which get no object.
    """

    assignments: tuple[Int64[Tensor, "_ batch _"], ...]
    bad: tuple[int, ...]


def solve(
    costs: Sequence[Float[Tensor, "_ batch _ objects"]], counts: tuple[int, ...], repeats: Sequence[int] | None = None
) -> Solved:
    """Solves all Hungarian assignments of a step; all cost tensors cross to the host in one copy.

    Args:
        costs: as `matching_cost` gives them; layers and queries may differ between them.
        counts: how many objects each image has.
        repeats: for each cost tensor, how many queries an object gets, or as many as there are: K of H-DETR (arXiv
            2207.13080); default: 1.
    """
    host = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
    parts = np.split(host, np.cumsum([cost.numel() for cost in costs])[:-1])
    assignments: list[Tensor] = []
    bad: set[int] = set()
    for cost, part, times in zip(costs, parts, repeats or [1] * len(costs), strict=True):
        values = part.reshape(cost.shape)
        found = {i for i in range(len(counts)) if not np.isfinite(values[:, i]).all()}
        assignment = np.full(cost.shape[:3], -1, dtype=np.int64)
        for layer, image in np.ndindex(*cost.shape[:2]):
            if counts[image] and image not in found:
                wanted = values[layer, image, :, : counts[image]].repeat(times, axis=1)
                queries, objects = linear_sum_assignment(wanted)
                assignment[layer, image, queries] = objects // times
        assignments.append(torch.from_numpy(assignment).to(cost.device, non_blocking=True))
        bad |= found
    return Solved(tuple(assignments), tuple(sorted(bad)))


def hungarian(
    *costs: Float[Tensor, "_ batch _ objects"], counts: tuple[int, ...]
) -> tuple[Int64[Tensor, "_ batch _"], ...]:
    """The assignments of `solve`, where each object gets one query.

    Raises:
        NonFiniteCostError: a cost is NaN or infinite.
    """
    solved = solve(costs, counts)
    if solved.bad:
        raise NonFiniteCostError(solved.bad)
    return solved.assignments


def cheapest(cost: Float[Tensor, "batch candidates objects"], count: int) -> Int64[Tensor, "batch chosen objects"]:
    """For each object the `count` candidates (or as many as there are) with the least cost, cheapest first.

    A candidate may be chosen for several objects. What is chosen for padded objects means nothing.
    """
    return cost.topk(min(count, cost.shape[1]), dim=1, largest=False).indices
