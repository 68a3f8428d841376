"""Export and compilation record torch's own operators, never our loops.

In a process without jaxtyping's import hook, which breaks compilation.
"""

import subprocess
import sys

RECORDING = """
import sys
import torch
from torch import nn
from oddetr.models.deformable_attention import MultiScaleDeformableAttention
from oddetr.models.kernels import deformable_attention
from oddetr.models.kernels.operators import grid_sample_attention
from oddetr.models.layers import DepthwiseConv2d
assert "numba" not in sys.modules, "importing the kernels imported numba"
SHAPES = ((6, 8), (3, 4))


class Attention(nn.Module):
    def forward(self, value, locations, weights):
        return deformable_attention(value, SHAPES, locations, weights)


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = MultiScaleDeformableAttention(width=16, heads=2, levels=2, points=3)

    def forward(self, query, anchors, tokens):
        return self.attention(query, anchors, tokens, torch.zeros(tokens.shape[:2], dtype=torch.bool), SHAPES)


def recorded(module, *inputs, **options):
    program = torch.export.export(module, inputs, **options)
    return program, torch.compile(module, backend="eager", fullgraph=True)


def operators(program):
    return {str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"}


value, weights = torch.randn(2, 60, 2, 8), torch.rand(2, 7, 2, 2, 3)
locations = torch.rand(2, 7, 2, 2, 3, 2) * 1.5 - 0.25
expected = grid_sample_attention(value, SHAPES, locations, weights)
batch, queries = torch.export.Dim("batch"), torch.export.Dim("queries")
dynamic = ({0: batch}, {0: batch, 1: queries}, {0: batch, 1: queries})
program, compiled = recorded(Attention(), value, locations, weights, dynamic_shapes=dynamic)
assert operators(program) <= {"aten", "<built-in function getitem>"} and "grid_sampler" in str(program.graph)
torch.testing.assert_close(program.module()(value, locations, weights), expected)
torch.testing.assert_close(program.module()(value[:1], locations[:1, :5], weights[:1, :5]), expected[:1, :5])
torch.testing.assert_close(compiled(value, locations, weights), expected)
assert "numba" not in sys.modules, "export or compilation imported numba"

layer, images = DepthwiseConv2d(nn.Conv2d(4, 4, 5, padding=2, groups=4)), torch.randn(2, 4, 9, 8)
program, compiled = recorded(layer, images)
assert {str(node.target) for node in program.graph.nodes if node.op == "call_function"} == {"aten.conv2d.default"}
torch.testing.assert_close(compiled(images), layer(images))

# The sizes of levels are kept from call to call, but nothing that was recorded is.
fixed, inputs = Fixed(), (torch.randn(2, 5, 16), torch.rand(2, 5, 2, 2), torch.randn(2, 60, 16))
program, compiled = recorded(fixed, *inputs)
found, expected = compiled(*inputs), fixed(*inputs)
for each in (program.module()(*inputs), found, compiled(*inputs)):
    torch.testing.assert_close(each, expected)
expected.sum().backward()
"""


def test_export_and_compilation_record_torchs_operators() -> None:
    process = subprocess.run([sys.executable, "-c", RECORDING], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
