"""The matcher: matching costs, and the Hungarian assignment of queries to objects (DETR, arXiv 2005.12872)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from oddetr.boxes import generalized_iou, pairwise_l1
from oddetr.common.transfer import to_host
from oddetr.structures import GroundTruth, Predictions

MANY = 10_000
"""Queries from which on only the cheapest are matched: for fewer, choosing these takes a CPU longer than it saves."""


class NonFiniteCostError(FloatingPointError):
    """A matching cost is NaN or infinite because the predictions are.

    Attributes:
        images: indices in the batch.
        found: the result of the training step all the same: a NaN loss and its components. A process of a distributed
            run goes on with it, so that the gradient tells the other processes.
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
    """Weights of the matching cost. The defaults are those of Deformable-DETR, DAB-DETR and DINO.

    Attributes:
        classes: weight of the class cost, at least 0.
        l1: weight of the L1 cost of boxes, at least 0.
        giou: weight of the GIoU cost of boxes, at least 0.
        position_modulated: replace the class probability p by p u^(1/2), u = (GIoU + 1) / 2 divided by its maximum over
            the queries and objects of the image, so that a confident query far from an object does not match it
            (Stable-DINO, arXiv 2304.04742; its code takes the maximum over the batch, and objects of one class
            overwrite one another).

    Raises:
        ValueError: a weight is negative.
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
    """The cost of every pair of query and object, for all layers, in float32 and without gradient.

    cost = w_class (f+ - f-) + w_l1 |box - object|_1 - w_giou GIoU(box, object)
    f+ = a (1 - p)^g (-log p),  f- = (1 - a) p^g (-log(1 - p)),  a = 1/4, g = 2
    p: the query's probability of the object's class

    A query with any NaN or infinite prediction costs NaN for every object, so that the matcher notices it even in
    images without objects. The columns of padded objects carry no other information.
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
    """The assignments of several cost tensors.

    Attributes:
        assignments: one `Assignment` [layers, batch, queries] per cost tensor. In an image with more objects than
            queries, the most expensive objects stay unmatched.
        bad: indices of the images with a NaN or infinite cost; none of their queries is assigned.
    """

    assignments: tuple[Int64[Tensor, "_ batch _"], ...]
    bad: tuple[int, ...]


def solve(
    costs: Sequence[Float[Tensor, "_ batch _ objects"]], counts: tuple[int, ...], repeats: Sequence[int] | None = None
) -> Solved:
    """Solve the Hungarian assignments of several cost tensors, with a single transfer to the host.

    Of very many queries, as the tokens of a two-stage detector are, only the cheapest of each object are transferred:
    of `most` objects that want a query each, one finds a free query among its `most` cheapest, so that a best
    assignment needs no other.

    Args:
        costs: from `matching_cost`; they may differ in layers and queries.
        counts: objects of each image.
        repeats: queries to assign to each object, per cost tensor: K of H-DETR (arXiv 2207.13080); default: 1. With
            too few queries an object gets fewer.
    """
    repeats = repeats or [1] * len(costs)
    wanted = [_wanted(cost, max(counts, default=0) * times) for cost, times in zip(costs, repeats, strict=True)]
    received = (part.numpy() for part in to_host([part for parts in wanted for part in parts]))
    assignments: list[Tensor] = []
    bad: set[int] = set()
    for cost, parts, times in zip(costs, wanted, repeats, strict=True):
        values, *fewer = (next(received) for _ in parts)
        finite = fewer[1] if fewer else [np.isfinite(values[:, i]).all() for i in range(len(counts))]
        found = {i for i in range(len(counts)) if not finite[i]}
        assignment = np.full(cost.shape[:3], -1, dtype=np.int64)
        for layer, image in np.ndindex(*cost.shape[:2]):
            if counts[image] and image not in found:
                pairs = values[layer, image, :, : counts[image]]
                rows = np.arange(len(pairs))
                if fewer:
                    rows, pairs = _table(fewer[0][layer, image, :, : counts[image]], pairs)
                chosen, objects = linear_sum_assignment(pairs.repeat(times, axis=1))
                assignment[layer, image, rows[chosen]] = objects // times
        assignments.append(torch.from_numpy(assignment).to(cost.device, non_blocking=True))
        bad |= found
    return Solved(tuple(assignments), tuple(sorted(bad)))


def _wanted(cost: Float[Tensor, "_ batch _ objects"], most: int) -> list[Tensor]:
    """What `solve` transfers: the costs; or those of the `most` cheapest queries of each object, which queries these
    are, and whether each image's costs are finite, in float32, which holds all indices exactly."""
    if cost.shape[2] < MANY or not 0 < most <= cost.shape[2] // 2:
        return [cost]
    values, queries = cost.topk(most, dim=2, largest=False, sorted=False)
    return [values, queries.float(), cost.isfinite().all(dim=3).all(dim=2).all(dim=0).float()]


def _table(
    queries: Float[np.ndarray, "most objects"], costs: Float[np.ndarray, "most objects"]
) -> tuple[Int64[np.ndarray, " rows"], Float[np.ndarray, "rows objects"]]:
    """The queries that are among the cheapest of any object, and their costs; infinite where they are not."""
    rows, places = np.unique(queries, return_inverse=True)
    table = np.full((len(rows), costs.shape[1]), np.inf, costs.dtype)
    table[places.reshape(queries.shape), np.arange(costs.shape[1])] = costs
    return rows.astype(np.int64), table


def hungarian(
    *costs: Float[Tensor, "_ batch _ objects"], counts: tuple[int, ...]
) -> tuple[Int64[Tensor, "_ batch _"], ...]:
    """One-to-one assignments of the cost tensors; see `solve`.

    Raises:
        NonFiniteCostError: a cost is NaN or infinite.
    """
    solved = solve(costs, counts)
    if solved.bad:
        raise NonFiniteCostError(solved.bad)
    return solved.assignments


def cheapest(cost: Float[Tensor, "batch candidates objects"], count: int) -> Int64[Tensor, "batch chosen objects"]:
    """Indices of the `count` cheapest candidates of each object (all, if there are fewer), cheapest first.

    Objects are treated independently, so they may share candidates. Entries of padded objects are meaningless.
    """

    return cost.topk(min(count, cost.shape[1]), dim=1, largest=False).indices


def marked_queries(
    query: Int64[Tensor, "*batch chosen"], valid: Bool[Tensor, "*batch chosen"], queries: int
) -> Bool[Tensor, "*batch queries"]:
    """Which of `queries` queries are chosen; a choice that is not `valid` (a padded object's) is ignored.

    Queries 2 and 0, of which only the first is valid, of three: [False, False, True].
    """
    marks = torch.zeros(*query.shape[:-1], queries + 1, dtype=torch.bool, device=query.device)
    return marks.scatter(-1, torch.where(valid, query, queries), True)[..., :queries]
