"""Prediction distillation: the student imitates the teacher's predictions for the same queries."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from oddetr.boxes import generalized_iou
from oddetr.distillation.group import Solution, Supervision
from oddetr.losses.detection import Classification, DetectionLoss, quality_focal_loss
from oddetr.structures import Predictions


@dataclass(frozen=True)
class Imitated(Supervision):
    """Supervision by the teacher's predictions for the same queries.

    Attributes:
        teacher: the teacher's predictions, query by query.
    """

    teacher: Predictions

    def loss(
        self, predictions: Predictions, solution: Solution, objects: Float[Tensor, ""], classification: Classification
    ) -> DetectionLoss:
        """See `imitation_loss`; always quality focal loss, whatever `classification` is."""
        return imitation_loss(predictions, self.teacher, objects)


def imitation_loss(student: Predictions, teacher: Predictions, objects: Float[Tensor, ""]) -> DetectionLoss:
    """Prediction distillation: query i of the student imitates query i of the teacher, in each layer (formula ours).

    classes = sum_i sum_c QFL(p_ic, p'_ic) / objects
    l1      = sum_i w_i |box_i - box'_i|_1 / objects
    giou    = sum_i w_i (1 - GIoU(box_i, box'_i)) / objects
    w_i     = max_c p'_ic, the teacher's confidence;  primes mark the teacher

    Dividing by the objects rather than by the sum of w_i keeps the box terms small while the teacher is not confident
    of anything.
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
