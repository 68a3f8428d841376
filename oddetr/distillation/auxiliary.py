"""The auxiliary group: the teacher's queries, of all its decoder layers, that are nearest to each object."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from oddetr.distillation.config import AuxiliaryConfig
from oddetr.losses import DetectionLoss, detection_loss
from oddetr.matching import cheapest
from oddetr.models.detector import Detector
from oddetr.structures import GroundTruth, Predictions, Queries


@dataclass(frozen=True)
class AuxiliaryGroup:
    """The queries, and the object that each is to find.

    Attributes:
        groups: by name, what the student decodes: one group, or one for each rank of candidates (`config.apart`);
            `per_object` x objects queries in all, where those of padded objects are padding.
        assignment: by construction, of all groups' queries, one group after the other.
        padding: likewise.
        per_object: queries for each object.
    """

    groups: dict[str, Queries]
    assignment: Int64[Tensor, "batch queries"]
    padding: Bool[Tensor, "batch queries"]
    per_object: int


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


@torch.no_grad()
def auxiliary_group(
    teacher: Detector,
    initial: Queries,
    predictions: Predictions,
    cost: Float[Tensor, "layers batch queries objects"],
    truth: GroundTruth,
    config: AuxiliaryConfig,
) -> AuxiliaryGroup:
    """Makes queries of the teacher's cheapest candidates.

    A candidate brings the content and the box that left its decoder layer. The box, or its centre where the detector
    starts from points (`config.anchors`), becomes the anchor; a learned position goes along, a computed one is computed
    anew from the anchor (ours).

    Args:
        teacher, initial, predictions: the teacher, its initial queries and what it made of them.
        cost: of its predictions.
    """
    layer, query = (chosen.flatten(1) for chosen in select(cost, config))
    image = torch.arange(len(layer), device=layer.device)[:, None]
    anchors = predictions.boxes[layer, image, query]
    if config.anchors == "initial":
        anchors = anchors[..., : initial.anchors.shape[-1]]
    objects = truth.labels.shape[1]
    per_object = layer.shape[1] // objects
    absent = ~truth.valid.repeat(1, per_object)
    fields = (
        predictions.content[layer, image, query],
        anchors,
        teacher.position(anchors, initial.position[image, query]),
        initial.identity[image, query],
        absent,
    )
    parts = zip(*(values.split(objects if config.apart else layer.shape[1], dim=1) for values in fields), strict=True)
    return AuxiliaryGroup(
        {f"auxiliary_{rank}": Queries(*part) for rank, part in enumerate(parts)},
        assignment=torch.arange(objects, device=layer.device).repeat(per_object).masked_fill(absent, -1),
        padding=absent,
        per_object=per_object,
    )


def auxiliary_loss(
    predictions: Mapping[str, Predictions], truth: GroundTruth, group: AuxiliaryGroup, objects: Float[Tensor, ""]
) -> DetectionLoss:
    """Quality focal loss and boxes of the group's queries for their objects, divided by their number.

    Args:
        predictions: of the student, by the groups' names.
    """
    parts = [predictions[name] for name in group.groups]
    found = Predictions(
        torch.cat([part.logits for part in parts], dim=2),
        torch.cat([part.boxes for part in parts], dim=2),
        torch.cat([part.content for part in parts], dim=2),
    )
    assignment = group.assignment.expand(len(found.logits), -1, -1)
    number = objects * group.per_object
    return detection_loss(found, truth, (assignment,), number, "quality_focal", padding=group.padding)
