"""Sizes of levels are kept, and what was kept suits every later use."""

import subprocess
import sys

import torch

from oddetr.models.levels import level_sizes


def test_level_sizes_when_asked_again_then_the_same_tensor_of_widths_and_heights() -> None:
    like = torch.zeros(1)
    found = level_sizes(((6, 8), (3, 4)), like)
    assert found.tolist() == [[8, 6], [4, 3]]
    assert level_sizes(((6, 8), (3, 4)), like) is found
    assert level_sizes(((6, 8), (3, 4)), like.double()).dtype == torch.float64


def test_level_sizes_when_first_asked_in_inference_then_a_training_can_use_them() -> None:
    learned = torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        level_sizes(((17, 19),), learned)
    (learned / level_sizes(((17, 19),), learned)).sum().backward()
    torch.testing.assert_close(learned.grad, torch.tensor([1 / 19, 1 / 17]))


RECORDING = """
import torch
from oddetr.models.deformable_attention import MultiScaleDeformableAttention

shapes, batch = ((6, 8), (3, 4)), 2
attention = MultiScaleDeformableAttention(width=16, heads=2, levels=2, points=3)


class Fixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = attention

    def forward(self, query, anchors, tokens):
        return self.attention(query, anchors, tokens, torch.zeros(tokens.shape[:2], dtype=torch.bool), shapes)


inputs = torch.randn(batch, 5, 16), torch.rand(batch, 5, 2, 2), torch.randn(batch, 60, 16)
program = torch.export.export(Fixed(), inputs)
compiled = torch.compile(Fixed(), backend="eager", fullgraph=True)(*inputs)
expected = Fixed()(*inputs)
torch.testing.assert_close(program.module()(*inputs), expected)
torch.testing.assert_close(compiled, expected)
torch.testing.assert_close(torch.compile(Fixed(), backend="eager", fullgraph=True)(*inputs), expected)
expected.sum().backward()
"""


def test_level_sizes_when_recorded_for_export_or_compilation_then_nothing_of_it_is_kept() -> None:
    process = subprocess.run([sys.executable, "-c", RECORDING], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
