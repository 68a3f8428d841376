"""The auxiliary group: for each object the teacher's best queries, with their rivals, which are to stay background."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from oddetr.distillation.config import AuxiliaryConfig
from oddetr.distillation.group import Assigned, Group, Term
from oddetr.losses.detection import LossConfig
from oddetr.losses.matching import cheapest
from oddetr.models.detector import Detector
from oddetr.structures import AssignedQueries, GroundTruth, Predictions, Queries

MOST_QUERIES = 512
"""Queries of the group from which on an object has fewer rivals, if they are also more than twice the detector's own:
images of COCO hold up to 60 objects and more, and all images of a batch are padded to the fullest."""


@dataclass(frozen=True)
class Chosen:
    """The decoder layer and the query of each candidate and rival of each object.

    Attributes:
        present: False on what only fills up: padded objects, and rivals that do not exist.
    """

    layer: Int64[Tensor, "batch ranks objects"]
    query: Int64[Tensor, "batch ranks objects"]
    present: Bool[Tensor, "batch ranks objects"]


def candidates(
    cost: Float[Tensor, "layers batch queries objects"], valid: Bool[Tensor, "batch objects"], count: int
) -> Chosen:
    """The `count` cheapest of all layers and queries; a query at two layers is two candidates (the paper's reading).

    Example: 2 layers, 2 queries, one object with costs [[3, 1], [2, 4]], 2 candidates: query 1 of layer 0 (cost 1) and
    query 0 of layer 1 (cost 2).
    """
    queries = cost.shape[2]
    chosen = cheapest(cost.movedim(0, 1).flatten(1, 2), count)
    return Chosen(chosen // queries, chosen % queries, valid[:, None].expand(chosen.shape))


def candidates_and_rivals(
    cost: Float[Tensor, "layers batch queries objects"], valid: Bool[Tensor, "batch objects"], count: int, rivals: int
) -> tuple[Chosen, Chosen]:
    """The `count` cheapest queries of each object, and the next `rivals` that are no candidate of any object; each
    query at the layer at which it costs the object least (ours).

    Example: one layer, one object, costs [4, 1, 3, 2], 1 candidate, 2 rivals: query 1; queries 3 and 2.
    """
    least = cost.min(dim=0)
    first = cheapest(least.values, count)
    _, batch, queries, _ = cost.shape
    taken = torch.zeros(batch, queries + 1, dtype=torch.bool, device=cost.device)
    taken = taken.scatter(1, torch.where(valid[:, None], first, queries).flatten(1), True)
    others = least.values.masked_fill(taken[:, :queries, None], torch.inf)
    next_costs, following = others.topk(min(rivals, others.shape[1]), dim=1, largest=False)
    present = valid[:, None].expand(following.shape) & next_costs.isfinite()
    return (
        Chosen(least.indices.gather(1, first), first, valid[:, None].expand(first.shape)),
        Chosen(least.indices.gather(1, following), following, present),
    )


def auxiliary_group(
    teacher: Detector,
    initial: Queries,
    predictions: Predictions,
    cost: Float[Tensor, "layers batch queries objects"],
    truth: GroundTruth,
    config: AuxiliaryConfig,
    loss: LossConfig,
    weight: float,
) -> Group:
    """The teacher's best queries of each object, which are to find it, and their rivals, which are to find nothing.

    The first candidates of all objects make one sub-group, the second ones another, blind to each other: in each, one
    query of an object is right, and its rivals, near it, are wrong. Without rivals all candidates make one group, in
    which the candidates of an object see each other (the plain reading of the paper).

    A query brings the content and the box that left its decoder layer. The box, or its centre where the detector starts
    from points, becomes the anchor; a learned position goes along, a computed one is computed anew from the anchor
    (ours).

    Args:
        teacher, initial, predictions: the teacher, its initial queries and what it made of them.
        cost: of its predictions.
        weight: w_a.
    """
    with torch.no_grad():
        objects, queries = truth.labels.shape[1], cost.shape[2]
        most = max(MOST_QUERIES, 2 * queries) // (config.candidates * objects) - 1
        if config.rivals:
            number = max(0, min(config.rivals, most))
            first, rivals = candidates_and_rivals(cost, truth.valid, config.candidates, number)
        else:
            first = candidates(cost, truth.valid, config.candidates)
            rivals = Chosen(first.layer[:, :0], first.query[:, :0], first.present[:, :0])
        ranks, each = first.query.shape[1], (1 + rivals.query.shape[1]) * objects
        own = torch.where(first.present, torch.arange(objects, device=cost.device), -1)
        layer, query, present, assignment = (
            torch.cat([part for rank in range(ranks) for part in (mine[:, rank : rank + 1], others)], dim=1).flatten(1)
            for mine, others in (
                (first.layer, rivals.layer),
                (first.query, rivals.query),
                (first.present, rivals.present),
                (own, torch.full_like(rivals.query, -1)),
            )
        )
        rank = torch.arange(ranks, device=cost.device).repeat_interleave(each)
        image = torch.arange(len(layer), device=cost.device)[:, None]
        anchors = predictions.boxes[layer, image, query][..., : initial.anchors.shape[-1]]
        made = Queries(
            content=predictions.content[layer, image, query],
            anchors=anchors,
            position=teacher.position(anchors, None if initial.position is None else initial.position[image, query]),
            identity=initial.identity[image, query],
            padding=~present,
            blind=rank[:, None] != rank if config.rivals else None,
        )
    group = AssignedQueries(made, assignment, ranks)
    return Group("auxiliary", made, (Term("auxiliary_", weight, loss, Assigned(truth, group)),))
