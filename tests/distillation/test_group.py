import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.distillation.group import Matched, Solution, agreement
from oddetr.losses.detection import detection_loss
from tests.losses.test_detection import assign
from tests.losses.test_matching import random_case

PARTS = ("classes", "l1", "giou")


def test_agreement_by_hand() -> None:
    """Three objects. Teacher: queries 0, 1 have objects 0, 1, and object 2's query is not the student's; student:
    query 0 has object 0, query 2 object 1, query 3 object 2. Carried: 2 of 3; two positive queries: object 1."""
    own, taught = torch.tensor([[[0, -1, 1, 2]]]), torch.tensor([[[0, 1, -1, -1]]])
    log = agreement(own, taught, torch.tensor([[[0, 1, 2, -1]]]))
    assert log["matching_carried"].item() == pytest.approx(2 / 3)
    assert log["matching_disagreement"].item() == pytest.approx(1 / 3)


def test_agreement_without_objects_or_with_too_many() -> None:
    none = torch.full((2, 1, 3), -1)
    assert {name: value.item() for name, value in agreement(none, none, none).items()} == {
        "matching_carried": 1,
        "matching_disagreement": 0,
    }
    all_taken = torch.tensor([[[4, 0, 2]]])
    assert agreement(all_taken, all_taken, all_taken)["matching_carried"] == 1


def test_agreement_of_one_object() -> None:
    """The teacher's query 0 has it; the student's query 1, or none that the teacher has."""
    own, teacher = torch.tensor([[[-1, 0]]]), torch.tensor([[[0, -1]]])
    log = agreement(own, teacher, teacher)
    assert [log["matching_carried"].item(), log["matching_disagreement"].item()] == [1, 1]
    log = agreement(own, torch.full_like(own, -1), teacher)
    assert [log["matching_carried"].item(), log["matching_disagreement"].item()] == [0, 0]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    weight=st.sampled_from([0.25, 1.0]),
    classification=st.sampled_from(["focal", "quality_focal"]),
)
def test_teacher_that_agrees_changes_no_loss(seed: int, weight: float, classification: str) -> None:
    predictions, truth = random_case(seed, (3, 0, 2))
    own = assign(predictions, truth)
    matched = Matched(truth, taught=lambda teacher: teacher, weight=weight)
    found = matched.loss(predictions, Solution(own, own), torch.tensor(5.0), classification)
    expected = detection_loss(predictions, truth, (own,), torch.tensor(5.0), classification)
    for part in PARTS:
        torch.testing.assert_close(getattr(found, part), getattr(expected, part))


def test_matching_weight_interpolates_the_loss() -> None:
    """Two queries find each object: the divisor is 10. What is taught is the teacher's assignment, one query on."""
    predictions, truth = random_case(0, (3, 0, 2))
    own, teacher = assign(predictions, truth), assign(predictions, truth).roll(2, dims=-1)
    taught = teacher.roll(1, dims=-1)
    alone, both = (detection_loss(predictions, truth, each, 10.0, "mal") for each in ((own,), (own, taught)))
    assert not both.l1.allclose(alone.l1)
    for weight in (0.25, 1.0):
        matched = Matched(truth, 2, lambda assignment: assignment.roll(1, dims=-1), weight)
        found = matched.loss(predictions, Solution(own, teacher), torch.tensor(5.0), "mal")
        for part in PARTS:
            expected = (1 - weight) * getattr(alone, part) + weight * getattr(both, part)
            torch.testing.assert_close(getattr(found, part), expected)
