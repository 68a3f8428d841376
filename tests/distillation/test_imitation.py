import math

import pytest
import torch

from oddetr.distillation.imitation import imitation_loss
from oddetr.structures import Predictions


def predictions(logits: list[float], boxes: list[list[float]]) -> Predictions:
    """One layer, one image, one class."""
    count = len(logits)
    return Predictions(
        torch.tensor(logits).view(1, 1, count, 1), torch.tensor(boxes).view(1, 1, count, 4), torch.zeros(1, 1, count, 1)
    )


TEACHER = predictions([0.0, -math.log(3)], [[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1]])
STUDENT = predictions([0.0, 0.0], [[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])


def test_imitation_loss_by_hand() -> None:
    """Two queries, two objects. The teacher's p' are 1/2 and 1/4, the student's p 1/2: QFL = 0 and (1/4)^2 ln 2.

    The boxes of query 0 differ by L1 0.4 and 1 - GIoU = 0.75, those of query 1 are equal: weighted by p', the sums are
    0.2 and 0.375, divided by 2 objects.
    """
    loss = imitation_loss(STUDENT, TEACHER, torch.tensor(2.0))
    assert loss.classes.tolist() == pytest.approx([0.0625 * math.log(2) / 2])
    assert loss.l1.tolist() == pytest.approx([0.1])
    assert loss.giou.tolist() == pytest.approx([0.1875])


def test_imitation_loss_of_the_teacher_is_zero() -> None:
    loss = imitation_loss(TEACHER, TEACHER, torch.tensor(2.0))
    assert [loss.classes.item(), loss.l1.item()] == [0, 0]
    assert loss.giou.item() == pytest.approx(0, abs=1e-6)


def test_imitation_boxes_are_weighted_by_the_best_class() -> None:
    """One query, two layers, two classes, one object. p' is (1/2, 1/4) in layer 0 and (1/4, 1/4) in layer 1: confidence
    1/2 and 1/4. The boxes differ by L1 0.4 in both."""
    probabilities = torch.tensor([[0.5, 0.25], [0.25, 0.25]]).view(2, 1, 1, 2)
    boxes = torch.tensor([0.5, 0.5, 0.4, 0.4]).expand(2, 1, 1, 4)
    teacher = Predictions(torch.logit(probabilities), boxes, torch.zeros(2, 1, 1, 1))
    student = Predictions(teacher.logits, torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(2, 1, 1, 4), teacher.content)
    assert imitation_loss(student, teacher, torch.tensor(1.0)).l1.tolist() == pytest.approx([0.2, 0.1])
