"""Deformable attention as a differentiable function of a device's loops."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from oddetr.models.kernels.gather import gather_attention

Shapes = tuple[tuple[int, int], ...]


class Loops(NamedTuple):
    """The loops of one device: both take contiguous (value, locations, weights) as `deformable_attention` has them.

    Attributes:
        forward: (shapes, value, locations, weights) -> output [batch, queries, heads, width].
        backward: (shapes, value, locations, weights, contiguous gradient of the output) -> gradients of the three.
    """

    forward: Callable[[Shapes, Tensor, Tensor, Tensor], Tensor]
    backward: Callable[[Shapes, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class LoopAttention(torch.autograd.Function):
    """(loops, shapes, value, locations, weights) -> [batch, queries, heads, width]; differentiable any number of
    times: the gradients' own gradients are those of the gather form."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        ctx.loops, ctx.shapes, *inputs = arguments
        ctx.save_for_backward(*inputs)
        return ctx.loops.forward(ctx.shapes, *inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return None, None, *_differentiable_gradients(ctx.shapes, ctx.saved_tensors, gradients[0])
        return None, None, *ctx.loops.backward(ctx.shapes, *ctx.saved_tensors, gradients[0].contiguous())


def _differentiable_gradients(shapes: Shapes, inputs: tuple[Tensor, ...], gradient: Tensor) -> list[Tensor | None]:
    """The gradients with a graph of their own, as `create_graph=True` asks for."""
    output = gather_attention(inputs[0], shapes, *inputs[1:]).view_as(gradient)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def trial(form: Callable[..., Tensor], device: str) -> None:
    """Runs a form forward and backward on one point."""
    value = torch.zeros(1, 1, 1, 1, device=device).requires_grad_()
    weights = torch.zeros(1, 1, 1, 1, 1, device=device).requires_grad_()
    form(value, ((1, 1),), torch.stack([weights, weights], dim=-1), weights).sum().backward()
