import pytest
import torch

from oddetr.distillation.group import Matched, Solution, agreement
from oddetr.losses.detection import detection_loss
from tests.losses.helpers import assign, parts_of, random_case


@pytest.mark.parametrize(
    ("own", "taught", "teacher", "carried", "disagreement"),
    [
        # Query 0 has object 0 for both. Object 1: the student's query 2. Object 2's query is not the student's.
        ([0, -1, 1, 2], [0, 1, -1, -1], [0, 1, 2, -1], 2 / 3, 1 / 3),
        ([-1, -1, -1], [-1, -1, -1], [-1, -1, -1], 1, 0),
        ([4, 0, 2], [4, 0, 2], [4, 0, 2], 1, 0),
        ([-1, 0], [0, -1], [0, -1], 1, 1),
        ([-1, 0], [-1, -1], [0, -1], 0, 0),
    ],
    ids=["three objects", "none", "more objects than queries", "another query", "a query that the student lacks"],
)
def test_agreement_by_hand(
    own: list[int], taught: list[int], teacher: list[int], carried: float, disagreement: float
) -> None:
    """Of one layer, and of two that agree alike."""
    for layers in (1, 2):
        log = agreement(*(torch.tensor(each).expand(layers, 1, -1) for each in (own, taught, teacher)))
        assert log["matching_carried"].item() == pytest.approx(carried)
        assert log["matching_disagreement"].item() == pytest.approx(disagreement)


def test_matching_weight_interpolates_the_loss() -> None:
    """Two queries find each object: the divisor is 10. What is taught is the teacher's assignment, one query on."""
    predictions, truth = random_case(0, (3, 0, 2))
    own, teacher = assign(predictions, truth), assign(predictions, truth).roll(2, dims=-1)
    taught = teacher.roll(1, dims=-1)
    alone, both = (parts_of(detection_loss(predictions, truth, each, 10.0, "mal")) for each in ((own,), (own, taught)))
    assert not both[1].allclose(alone[1])
    for weight in (0.25, 1.0):
        matched = Matched(truth, 2, lambda assignment: assignment.roll(1, dims=-1), weight)
        found = matched.loss(predictions, Solution(own, teacher), torch.tensor(5.0), "mal")
        torch.testing.assert_close(parts_of(found), (1 - weight) * alone + weight * both)
