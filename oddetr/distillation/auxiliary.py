"""The auxiliary group: the teacher's best queries for each object, with near-by rivals that must predict background."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from oddetr.distillation.config import AuxiliaryConfig
from oddetr.distillation.group import Assigned, Group, Term
from oddetr.distillation.teacher import TeacherView
from oddetr.losses.detection import LossConfig
from oddetr.losses.matching import cheapest, marked_queries
from oddetr.models.detector import Detector
from oddetr.structures import AssignedQueries, GroundTruth, Queries

MOST_QUERIES = 512
"""Upper limit of the group's size, or twice the detector's own queries if that is more: above it each object gets fewer
rivals. COCO images may have 60 objects and more, and the batch is padded to the fullest image."""


@dataclass(frozen=True)
class Chosen:
    """The queries chosen for each object, best first, as indices into the teacher's predictions.

    Attributes:
        layer: decoder layer.
        query: query index.
        present: False for padding: padded objects, and rivals that do not exist.
    """

    layer: Int64[Tensor, "batch ranks objects"]
    query: Int64[Tensor, "batch ranks objects"]
    present: Bool[Tensor, "batch ranks objects"]


def candidates(
    cost: Float[Tensor, "layers batch queries objects"], valid: Bool[Tensor, "batch objects"], count: int
) -> Chosen:
    """The `count` cheapest pairs of layer and query of each object (the paper's reading): a query may occur twice.

    Example: 2 layers, 2 queries, one object with costs [[3, 1], [2, 4]], 2 candidates: query 1 of layer 0 (cost 1) and
    query 0 of layer 1 (cost 2).
    """
    queries = cost.shape[2]
    chosen = cheapest(cost.movedim(0, 1).flatten(1, 2), count)
    return Chosen(chosen // queries, chosen % queries, valid[:, None].expand(chosen.shape))


def candidates_and_rivals(
    cost: Float[Tensor, "layers batch queries objects"], valid: Bool[Tensor, "batch objects"], count: int, rivals: int
) -> tuple[Chosen, Chosen]:
    """The `count` cheapest queries of each object, and its next `rivals`, each at its cheapest layer (ours).

    A candidate of any object is nobody's rival.

    Example: one layer, one object with costs [4, 1, 3, 2], 1 candidate, 2 rivals: query 1; queries 3 and 2.
    """
    least = cost.min(dim=0)
    first = cheapest(least.values, count)
    taken = marked_queries(first.flatten(1), valid[:, None].expand(first.shape).flatten(1), cost.shape[2])
    others = least.values.masked_fill(taken[..., None], torch.inf)
    next_costs, following = others.topk(min(rivals, others.shape[1]), dim=1, largest=False)
    present = valid[:, None].expand(following.shape) & next_costs.isfinite()
    return (
        Chosen(least.indices.gather(1, first), first, valid[:, None].expand(first.shape)),
        Chosen(least.indices.gather(1, following), following, present),
    )


def auxiliary_group(
    teacher: Detector,
    view: TeacherView,
    truth: GroundTruth,
    config: AuxiliaryConfig,
    loss: LossConfig,
    weight: float,
) -> Group:
    """The teacher's best queries for each object, trained to detect it, and their rivals, trained as background.

    The k-th candidates of all objects form a sub-group with all rivals; sub-groups do not attend to one another. So
    each sub-group has one positive query per object, and near-by negative ones. Without rivals all candidates form a
    single group, in which those of one object attend to one another (the literal reading of the paper).

    A query starts from the content and the box of its decoder layer. The box, or its centre for detectors whose anchors
    are points, becomes the anchor. A learned position embedding is kept; a computed one is recomputed from the anchor
    (ours).

    Args:
        teacher: the averaged detector.
        view: the queries that it decoded, its predictions for them, and their matching cost.
        truth: the objects.
        config: numbers of candidates and rivals.
        loss: loss weights.
        weight: w_a.
    """
    initial, predictions, cost = view.queries, view.predictions, view.cost
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
            attention_mask=rank[:, None] != rank if config.rivals else None,
        )
    group = AssignedQueries(made, assignment, ranks)
    return Group("auxiliary", made, (Term("auxiliary_", weight, loss, Assigned(truth, group)),))
