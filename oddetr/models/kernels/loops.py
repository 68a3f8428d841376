"""Deformable attention as a differentiable function of a device's loops."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from oddetr.structures import Shapes


class Loops(NamedTuple):
    """The loops of one device: both take contiguous (value, locations, weights) as `deformable_attention` has them.

    Attributes:
        forward: (shapes, value, locations, weights) -> output [batch, queries, heads, width].
        backward: (shapes, value, locations, weights, contiguous gradient of the output) -> gradients of the three.
    """

    forward: Callable[[Shapes, Tensor, Tensor, Tensor], Tensor]
    backward: Callable[[Shapes, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class LoopAttention(torch.autograd.Function):
    """(loops, shapes, value, locations, weights) -> [batch, queries, heads, width]."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        ctx.loops, ctx.shapes, *inputs = arguments
        ctx.save_for_backward(*inputs)
        return ctx.loops.forward(ctx.shapes, *inputs)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator's type has other parameters
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.loops.backward(ctx.shapes, *ctx.saved_tensors, gradients[0].contiguous())


def try_once(form: Callable[..., Tensor], device: str) -> None:
    """Runs a form forward and backward on one point."""
    value = torch.zeros(1, 1, 1, 1, device=device).requires_grad_()
    weights = torch.zeros(1, 1, 1, 1, 1, device=device).requires_grad_()
    form(value, ((1, 1),), torch.stack([weights, weights], dim=-1), weights).sum().backward()
