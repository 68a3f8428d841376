import math

import pytest
import torch

from oddetr.distillation.config import PredictionConfig
from oddetr.distillation.prediction import prediction_loss
from oddetr.structures import Predictions

OBJECTS = torch.tensor(2.0)


def predictions(logits: list[float], boxes: list[list[float]]) -> Predictions:
    """One layer, one image, one class."""
    count = len(logits)
    return Predictions(
        torch.tensor(logits).view(1, 1, count, 1), torch.tensor(boxes).view(1, 1, count, 4), torch.zeros(1, 1, count, 1)
    )


TEACHER = predictions([0.0, -math.log(3)], [[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1]])
STUDENT = predictions([0.0, 0.0], [[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])


@pytest.mark.parametrize(
    ("config", "classes", "l1", "giou"),
    [
        (PredictionConfig(), 0.0625 * math.log(2) / 2, 0.1, 0.1875),
        (PredictionConfig(divide_by="confidence"), 0.0625 * math.log(2) / 2, 0.2 / 0.75, 0.375 / 0.75),
        (PredictionConfig(confidence_power=2.0), 0.0625 * math.log(2) / 2, 0.05, 0.09375),
        (PredictionConfig(min_confidence=0.3), 0.0, 0.1, 0.1875),
        (PredictionConfig(min_confidence=0.5), 0.0, 0.1, 0.1875),
        (PredictionConfig(min_confidence=0.9, divide_by="confidence"), 0.0, 0.0, 0.0),
    ],
    ids=["default", "by confidence", "squared", "confident", "just confident", "nothing confident"],
)
def test_prediction_loss_when_computed_by_hand_then_agrees(
    config: PredictionConfig, classes: float, l1: float, giou: float
) -> None:
    """Two queries, two objects. The teacher's p' are 1/2 and 1/4, the student's p 1/2: QFL = 0 and (1/4)^2 ln 2.

    The boxes of query 0 differ by L1 0.4 and 1 - GIoU = 0.75, those of query 1 are equal: weighted by p', the sums are
    0.2 and 0.375 (squared: 0.1 and 0.1875), divided by 2 objects, or by the confidences' sum 3/4.
    """
    loss = prediction_loss(STUDENT, TEACHER, OBJECTS, config, lambda total: total)
    assert loss.classes.tolist() == pytest.approx([classes])
    assert loss.l1.tolist() == pytest.approx([l1])
    assert loss.giou.tolist() == pytest.approx([giou])


def test_prediction_loss_when_the_student_is_the_teacher_then_is_zero() -> None:
    loss = prediction_loss(TEACHER, TEACHER, OBJECTS, PredictionConfig(), lambda total: total)
    assert [loss.classes.item(), loss.l1.item()] == [0, 0]
    assert loss.giou.item() == pytest.approx(0, abs=1e-6)


def test_prediction_loss_when_the_step_is_larger_then_divides_by_its_total() -> None:
    config = PredictionConfig(divide_by="confidence")
    whole = prediction_loss(STUDENT, TEACHER, OBJECTS, config, lambda total: total)
    part = prediction_loss(STUDENT, TEACHER, OBJECTS, config, lambda total: 4 * total)
    torch.testing.assert_close(part.l1, whole.l1 / 4)
    assert part.classes.equal(whole.classes)


def test_prediction_loss_when_of_several_classes_and_layers_then_boxes_count_by_the_best_class_of_their_layer() -> None:
    """One query, two layers, two classes, one object. p' is (1/2, 1/4) in layer 0 and (1/4, 1/4) in layer 1: confidence
    1/2 and 1/4. The boxes differ by L1 0.4 in both."""
    probabilities = torch.tensor([[0.5, 0.25], [0.25, 0.25]]).view(2, 1, 1, 2)
    boxes = torch.tensor([0.5, 0.5, 0.4, 0.4]).expand(2, 1, 1, 4)
    teacher = Predictions(torch.logit(probabilities), boxes, torch.zeros(2, 1, 1, 1))
    student = Predictions(teacher.logits, torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(2, 1, 1, 4), teacher.content)
    loss = prediction_loss(student, teacher, torch.tensor(1.0), PredictionConfig(), lambda total: total)
    assert loss.l1.tolist() == pytest.approx([0.2, 0.1])
    config = PredictionConfig(divide_by="confidence")
    by_confidence = prediction_loss(student, teacher, torch.tensor(1.0), config, lambda total: total)
    assert by_confidence.l1.tolist() == pytest.approx([0.4, 0.4])
