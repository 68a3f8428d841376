"""The auxiliary group: the teacher's queries, of all its decoder layers, that are nearest to each object."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from oddetr.distillation.config import AuxiliaryConfig
from oddetr.matching import cheapest
from oddetr.models.detector import Detector
from oddetr.structures import AssignedQueries, GroundTruth, Predictions, Queries


def select(
    cost: Float[Tensor, "layers batch queries objects"], config: AuxiliaryConfig
) -> tuple[Int64[Tensor, "batch chosen objects"], Int64[Tensor, "batch chosen objects"]]:
    """The decoder layer and the query of each object's candidates with the least matching cost.

    Example: 2 layers, 2 queries, one object with costs [[3, 1], [2, 4]], 2 candidates: query 1 of layer 0 (cost 1) and
    query 0 of layer 1 (cost 2).
    """
    layers, _, queries, _ = cost.shape
    if config.pool == "per_layer":
        chosen = torch.stack([cheapest(layer, config.candidates) for layer in cost], dim=1)
        which = torch.arange(layers, device=cost.device)[None, :, None, None].expand_as(chosen)
        return which.flatten(1, 2), chosen.flatten(1, 2)
    if config.distinct:
        least = cost.min(dim=0)
        chosen = cheapest(least.values, config.candidates)
        return least.indices.gather(1, chosen), chosen
    chosen = cheapest(cost.movedim(0, 1).flatten(1, 2), config.candidates)
    return chosen // queries, chosen % queries


def auxiliary_group(
    teacher: Detector,
    initial: Queries,
    predictions: Predictions,
    cost: Float[Tensor, "layers batch queries objects"],
    truth: GroundTruth,
    config: AuxiliaryConfig,
) -> AssignedQueries:
    """Makes queries of the teacher's cheapest candidates, first those of all objects that are cheapest, and so on.

    A candidate brings the content and the box that left its decoder layer. The box, or its centre where the detector
    starts from points (`config.anchors`), becomes the anchor; a learned position goes along, a computed one is computed
    anew from the anchor (ours).

    Args:
        teacher, initial, predictions: the teacher, its initial queries and what it made of them.
        cost: of its predictions.
    """
    with torch.no_grad():
        layer, query = (chosen.flatten(1) for chosen in select(cost, config))
        image = torch.arange(len(layer), device=layer.device)[:, None]
        anchors = predictions.boxes[layer, image, query]
        if config.anchors == "initial":
            anchors = anchors[..., : initial.anchors.shape[-1]]
        objects = truth.labels.shape[1]
        repeats = layer.shape[1] // objects
        absent = ~truth.valid.repeat(1, repeats)
        rank = torch.arange(repeats, device=layer.device).repeat_interleave(objects)
        queries = Queries(
            content=predictions.content[layer, image, query],
            anchors=anchors,
            position=teacher.position(anchors, None if initial.position is None else initial.position[image, query]),
            identity=initial.identity[image, query],
            padding=absent,
            blind=rank[:, None] != rank if config.apart else None,
        )
        assignment = torch.arange(objects, device=layer.device).repeat(repeats).masked_fill(absent, -1)
        return AssignedQueries(queries, assignment, repeats)
