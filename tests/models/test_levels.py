"""Sizes of levels are kept, and what was kept suits every later use."""

import torch

from oddetr.models.levels import level_sizes


def test_level_sizes_are_kept() -> None:
    like = torch.zeros(1)
    found = level_sizes(((6, 8), (3, 4)), like)
    assert found.tolist() == [[8, 6], [4, 3]]
    assert level_sizes(((6, 8), (3, 4)), like) is found
    assert level_sizes(((6, 8), (3, 4)), like.double()).dtype == torch.float64


def test_level_sizes_kept_in_inference_serve_training() -> None:
    learned = torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        level_sizes(((17, 19),), learned)
    (learned / level_sizes(((17, 19),), learned)).sum().backward()
    torch.testing.assert_close(learned.grad, torch.tensor([1 / 19, 1 / 17]))
