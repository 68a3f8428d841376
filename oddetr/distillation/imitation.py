"""The teacher's initial queries, decoded by the student: prediction distillation, and matching with exact identity."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from oddetr.boxes import generalized_iou
from oddetr.distillation.group import Group, Matched, Solution, Supervision, Term
from oddetr.losses.detection import Classification, DetectionLoss, LossConfig, quality_focal_loss
from oddetr.structures import GroundTruth, Predictions, Queries


def teacher_group(
    queries: Queries, predictions: Predictions, truth: GroundTruth, loss: LossConfig, imitate: float, match: float
) -> Group:
    """The teacher's initial queries, which the student decodes over its own memory.

    Query i of the student is query i of the teacher: it learns the teacher's prediction, and the objects of its own and
    of the teacher's matching.

    Args:
        queries, predictions: the teacher's initial queries, and what the teacher predicts for them.
        imitate, match: the weights of prediction and of matching distillation.
    """
    terms: list[Term] = []
    if imitate:
        terms.append(Term("prediction_", imitate, loss, Imitated(predictions)))
    if match:
        terms.append(Term("matching_", match, loss, Matched(truth, taught=lambda assignment: assignment)))
    return Group("teacher", queries, tuple(terms))


@dataclass(frozen=True)
class Imitated(Supervision):
    """What the teacher predicts for the same queries.

    Attributes:
        teacher: its predictions; query i of the student answers to query i of the teacher.
    """

    teacher: Predictions

    def loss(
        self, found: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """Prediction distillation, by quality focal loss whatever the detector's own loss is."""
        return imitation_loss(found, self.teacher, objects)


def imitation_loss(student: Predictions, teacher: Predictions, objects: Float[Tensor, ""]) -> DetectionLoss:
    """Query i of the student learns from query i of the teacher, layer by layer (the formula is ours):

    classes = sum_i sum_c QFL(p_ic, p'_ic) / objects;  l1 = sum_i w_i |box_i - box'_i|_1 / objects;
    giou = sum_i w_i (1 - GIoU(box_i, box'_i)) / objects;  w_i = max_c p'_ic, the teacher's confidence

    Primes are the teacher's. Divided by objects, a young teacher, which is confident of nothing, hardly holds boxes
    where they are.
    """
    targets = teacher.logits.float().sigmoid()
    confidence = targets.amax(dim=-1)
    classes = quality_focal_loss(student.logits, targets)
    l1 = (student.boxes.float() - teacher.boxes.float()).abs().sum(dim=-1)
    giou = 1 - generalized_iou(student.boxes, teacher.boxes)
    return DetectionLoss(
        classes=classes.sum(dim=(1, 2, 3)) / objects,
        l1=(confidence * l1).sum(dim=(1, 2)) / objects,
        giou=(confidence * giou).sum(dim=(1, 2)) / objects,
    )
