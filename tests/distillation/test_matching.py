import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oddetr.distillation.config import MatchingConfig
from oddetr.distillation.matching import agreement, carried_over, own_loss
from oddetr.losses import LossConfig, detection_loss
from tests.test_losses import assign
from tests.test_matching import random_case


def test_carried_over_when_queries_are_slots_then_is_the_teachers_assignment() -> None:
    assignment = torch.tensor([[[1, -1, 0]], [[-1, 0, 1]]])
    slots = torch.arange(3)[None]
    assert carried_over(assignment, slots, slots).equal(assignment)


def test_carried_over_when_queries_are_tokens_then_follows_the_token_and_drops_those_not_chosen() -> None:
    """The teacher chose tokens 7, 3, 9, of which 7 has object 1 and 9 object 0; the student chose 9, 5, 7."""
    taught = carried_over(torch.tensor([[[1, -1, 0]]]), torch.tensor([[7, 3, 9]]), torch.tensor([[9, 5, 7]]))
    assert taught.tolist() == [[[0, -1, 1]]]
    dropped = carried_over(torch.tensor([[[1, -1, 0]]]), torch.tensor([[7, 3, 9]]), torch.tensor([[5, 3, 7]]))
    assert dropped.tolist() == [[[-1, -1, 1]]]


def test_agreement_when_computed_by_hand_then_agrees() -> None:
    """Three objects. Teacher: queries 0, 1 have objects 0, 1, and object 2's query is not the student's; student:
    query 0 has object 0, query 2 object 1, query 3 object 2. Carried: 2 of 3; two positive queries: object 1."""
    own, taught = torch.tensor([[[0, -1, 1, 2]]]), torch.tensor([[[0, 1, -1, -1]]])
    log = agreement(own, taught, torch.tensor([[[0, 1, 2, -1]]]))
    assert log["matching_carried"].item() == pytest.approx(2 / 3)
    assert log["matching_disagreement"].item() == pytest.approx(1 / 3)


def test_agreement_when_there_are_no_objects_or_more_than_queries_then_all_that_can_be_is_carried() -> None:
    none = torch.full((2, 1, 3), -1)
    assert {name: value.item() for name, value in agreement(none, none, none).items()} == {
        "matching_carried": 1,
        "matching_disagreement": 0,
    }
    all_taken = torch.tensor([[[4, 0, 2]]])
    assert agreement(all_taken, all_taken, all_taken)["matching_carried"] == 1


def test_agreement_when_there_is_one_object_then_all_of_it_counts() -> None:
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
def test_own_loss_when_the_teacher_agrees_then_is_the_students_own(
    seed: int, weight: float, classification: str
) -> None:
    predictions, truth = random_case(seed, (3, 0, 2))
    own, loss = assign(predictions, truth), LossConfig(classification)
    found = own_loss(predictions, truth, own, own, torch.tensor(5.0), loss, MatchingConfig(), weight)
    expected = detection_loss(predictions, truth, (own,), torch.tensor(5.0), classification)
    for part in ("classes", "l1", "giou"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part))


def test_own_loss_when_the_weight_is_between_then_mixes_both_losses() -> None:
    predictions, truth = random_case(0, (3, 0, 2))
    own = assign(predictions, truth)
    taught = own.roll(1, dims=-1)
    arguments = (predictions, truth, own, taught, torch.tensor(5.0), LossConfig(), MatchingConfig())
    alone = detection_loss(predictions, truth, (own,), torch.tensor(5.0), "quality_focal")
    both, mixed = own_loss(*arguments, 1.0), own_loss(*arguments, 0.25)
    assert not both.l1.allclose(alone.l1)
    for part in ("classes", "l1", "giou"):
        torch.testing.assert_close(getattr(mixed, part), 0.75 * getattr(alone, part) + 0.25 * getattr(both, part))


def test_own_loss_when_boxes_are_the_students_own_then_only_classes_learn_from_the_teacher() -> None:
    predictions, truth = random_case(0, (3, 0, 2))
    own = assign(predictions, truth)
    taught = own.roll(1, dims=-1)
    arguments = (predictions, truth, own, taught, torch.tensor(5.0), LossConfig())
    found = own_loss(*arguments, MatchingConfig(boxes="own"), 1.0)
    both = own_loss(*arguments, MatchingConfig(), 1.0)
    alone = detection_loss(predictions, truth, (own,), torch.tensor(5.0), "quality_focal")
    assert found.l1.equal(alone.l1)
    assert found.giou.equal(alone.giou)
    assert found.classes.equal(both.classes)
