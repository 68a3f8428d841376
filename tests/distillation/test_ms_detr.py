"""MS-DETR's one-to-many supervision of the detector's own queries."""

import pytest
import torch

from oddetr.distillation import DistillationConfig, DistillationTask
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.distillation.ms_detr import one_to_many
from oddetr.losses.detection import LossConfig, detection_loss
from oddetr.structures import GroundTruth, Predictions
from tests.models.helpers import small_batch, small_detector

OFF = DistillationConfig(enabled=False)


def found(boxes: list[list[float]], probabilities: list[list[float]]) -> Predictions:
    """One layer, one image."""
    logits = torch.logit(torch.tensor(probabilities))
    return Predictions(logits[None, None], torch.tensor(boxes)[None, None], torch.zeros(1, 1, len(boxes), 1))


def test_one_to_many_by_hand() -> None:
    """Object 0 (class 0) is the left half, object 1 (class 1) a small box.

    The qualities of queries 0 to 3 for object 0, with IoU 1, 0.8, 0.5, 0 and p 0.5, are 0.85, 0.71, 0.5 and 0.15: three
    are positive. No query reaches 0.4 for object 1; its best is query 3 (0.3 * 0.9 = 0.27), so that one is positive.
    """
    left = [0.25, 0.5, 0.5, 1.0]
    boxes = [left, [0.25, 0.5, 0.5, 0.8], [0.25, 0.5, 0.5, 0.5], [0.8, 0.5, 0.1, 0.1]]
    predictions = found(boxes, [[0.5, 0.1], [0.5, 0.1], [0.5, 0.1], [0.5, 0.9]])
    truth = GroundTruth.stack([torch.tensor([0, 1])], [torch.tensor([left, [0.6, 0.1, 0.1, 0.1]])])
    assert one_to_many(predictions, truth, 6).tolist() == [[[0, 0, 0, 1]]]
    assert one_to_many(predictions, truth, 2).tolist() == [[[0, 0, -1, 1]]]


def test_query_claimed_twice_gets_the_better_object() -> None:
    """Query 0 overlaps object 0 by 0.9 and object 1 by 0.8 and is the best of both: it learns object 0, and object 1
    has no positive query."""
    predictions = found([[0.5, 0.5, 0.5, 1.0], [0.05, 0.05, 0.1, 0.1]], [[0.5], [0.01]])
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.9], [0.5, 0.5, 0.5, 0.8]])
    truth = GroundTruth.stack([torch.tensor([0, 0])], [boxes])
    assert one_to_many(predictions, truth, 6).tolist() == [[[0, -1]]]


def test_one_to_many_without_objects() -> None:
    predictions = found([[0.5, 0.5, 1.0, 1.0]], [[0.99]])
    truth = GroundTruth(torch.tensor([[-1]]), torch.zeros(1, 1, 4), (0,))
    assert one_to_many(predictions, truth, 6).tolist() == [[[-1]]]


@pytest.mark.parametrize("variant", ["refine", "dino"])
def test_mixed_adds_the_one_to_many_loss_of_its_own_heads(variant: str) -> None:
    task, plain = (
        DistillationTask(small_detector(variant), 10, OFF, groups=groups) for groups in (GroupsConfig(mixed=True), None)
    )
    assert task.student.state_dict().keys() == plain.student.state_dict().keys()
    with torch.no_grad():
        for head in task.extra.heads.classes:
            head.bias.add_(1.0)
        for decoder in (task.student.decoder, plain.student.decoder):
            if decoder.norm is not None:
                decoder.norm.weight.copy_(torch.linspace(0.5, 2.0, len(decoder.norm.weight)))
    batch = small_batch((3, 2))
    torch.manual_seed(1)
    mixed = task(batch)
    torch.manual_seed(1)
    alone = plain(batch)
    memory = plain.student.encode(batch.images, batch.padding_mask)
    own = plain.student.decode(memory, {"own": plain.student.initial_queries(memory).queries})["own"]
    raised = Predictions(own.logits + 1.0, own.boxes, own.content)
    assignment = one_to_many(raised, batch.truth, 6)
    assert (assignment >= 0).sum() > 0
    expected = detection_loss(raised, batch.truth, (assignment,), 5.0, "quality_focal").weighted(LossConfig())
    torch.testing.assert_close(mixed["loss"] - alone["loss"], expected, rtol=1e-4, atol=1e-4)
    mixed["loss"].backward()
    assert all(parameter.grad.isfinite().all() for _, parameter in task.learned())


def test_one_to_many_ignores_padded_objects() -> None:
    """Query 1 fits the only object; query 0 reaches 0.7 * 0.2 + 0.3 * 0.2 = 0.2.

    Two padded objects, whose qualities are all equal, must not make query 0 positive.
    """
    predictions = found([[0.5, 0.5, 0.2, 1.0], [0.5, 0.5, 1.0, 1.0]], [[0.2], [0.9]])
    boxes = torch.tensor([[[0.5, 0.5, 1.0, 1.0], [0.0] * 4, [0.0] * 4]])
    truth = GroundTruth(torch.tensor([[0, -1, -1]]), boxes, (1,))
    assert one_to_many(predictions, truth, 6).tolist() == [[[-1, 0]]]
