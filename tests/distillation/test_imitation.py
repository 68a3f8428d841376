import math

import pytest
import torch

from oddetr.distillation.imitation import imitation_loss
from oddetr.structures import Predictions
from tests.losses.helpers import predicted


def test_imitation_loss_by_hand() -> None:
    """Two queries, two objects. The teacher's p' are 1/2 and 1/4, the student's p 1/2: QFL = 0 and (1/4)^2 ln 2.

    The boxes of query 0 differ by L1 0.4 and 1 - GIoU = 0.75, those of query 1 are equal: weighted by p', the sums are
    0.2 and 0.375, divided by 2 objects.
    """
    student = predicted([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]], classes=1)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1]])[None, None]
    teacher = Predictions(torch.tensor([0.0, -math.log(3)]).view(1, 1, 2, 1), boxes, student.content)
    loss = imitation_loss(student, teacher, torch.tensor(2.0))
    assert loss.classes.tolist() == pytest.approx([0.0625 * math.log(2) / 2])
    assert loss.l1.tolist() == pytest.approx([0.1])
    assert loss.giou.tolist() == pytest.approx([0.1875])


def test_imitation_boxes_are_weighted_by_the_best_class() -> None:
    """One query, two layers, two classes, one object. p' is (1/2, 1/4) in layer 0 and (1/4, 1/4) in layer 1: confidence
    1/2 and 1/4. The boxes differ by L1 0.4 in both."""
    probabilities = torch.tensor([[0.5, 0.25], [0.25, 0.25]]).view(2, 1, 1, 2)
    boxes = torch.tensor([0.5, 0.5, 0.4, 0.4]).expand(2, 1, 1, 4)
    teacher = Predictions(torch.logit(probabilities), boxes, torch.zeros(2, 1, 1, 1))
    student = Predictions(teacher.logits, torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(2, 1, 1, 4), teacher.content)
    assert imitation_loss(student, teacher, torch.tensor(1.0)).l1.tolist() == pytest.approx([0.2, 0.1])
