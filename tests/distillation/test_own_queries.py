import pytest
import torch

from oddetr.distillation.own_queries import carried_over, carrying
from tests.models.helpers import small_batch, small_detector


def test_assignment_of_slots_is_carried_over_unchanged() -> None:
    assignment = torch.tensor([[[1, -1, 0]], [[-1, 0, 1]]])
    slots = torch.arange(3)[None]
    assert carried_over(assignment, slots, slots).equal(assignment)


def test_assignment_of_tokens_follows_the_token() -> None:
    """The teacher chose tokens 7, 3, 9, of which 7 has object 1 and 9 object 0; the student chose 5, 9, 7, 2."""
    taught = carried_over(torch.tensor([[[1, -1, 0]]]), torch.tensor([[7, 3, 9]]), torch.tensor([[5, 9, 7, 2]]))
    assert taught.tolist() == [[[-1, 0, 1, -1]]]
    dropped = carried_over(torch.tensor([[[1, -1, 0]]]), torch.tensor([[7, 3, 9]]), torch.tensor([[5, 3, 7]]))
    assert dropped.tolist() == [[[-1, -1, 1]]]


@pytest.mark.parametrize(
    ("variant", "own", "is_same"), [("refine", True, True), ("two_stage", False, True), ("two_stage", True, False)]
)
def test_assignment_stays_the_same_where_queries_or_slots_are_the_same(variant: str, own: bool, is_same: bool) -> None:
    detector, batch = small_detector(variant), small_batch((2, 1))
    memory = detector.encode(batch.images, batch.padding_mask)
    initial, other = detector.initial_queries(memory), detector.initial_queries(memory)
    assignment = torch.tensor([1, -1, 0, -1, -1, -1]).expand(1, 2, -1)
    carry = carrying(other.queries if own else initial.queries, initial)
    assert carry(assignment).equal(assignment)
    assert (carry(assignment) is assignment) == is_same
