import torch

from oddetr.distillation.own import carried_over


def test_assignment_of_slots_is_carried_over_unchanged() -> None:
    assignment = torch.tensor([[[1, -1, 0]], [[-1, 0, 1]]])
    slots = torch.arange(3)[None]
    assert carried_over(assignment, slots, slots).equal(assignment)


def test_assignment_of_tokens_follows_the_token() -> None:
    """The teacher chose tokens 7, 3, 9, of which 7 has object 1 and 9 object 0; the student chose 9, 5, 7."""
    taught = carried_over(torch.tensor([[[1, -1, 0]]]), torch.tensor([[7, 3, 9]]), torch.tensor([[9, 5, 7]]))
    assert taught.tolist() == [[[0, -1, 1]]]
    dropped = carried_over(torch.tensor([[[1, -1, 0]]]), torch.tensor([[7, 3, 9]]), torch.tensor([[5, 3, 7]]))
    assert dropped.tolist() == [[[-1, -1, 1]]]
