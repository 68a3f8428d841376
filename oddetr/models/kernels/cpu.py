"""Deformable attention on the CPU: the loops of `cpu_loops` as a differentiable function."""

import functools
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oddetr.models.kernels import cpu_loops
from oddetr.models.kernels.compiled import share_among_threads
from oddetr.models.kernels.gather import gather_attention
from oddetr.models.kernels.inputs import common_precision

Shapes = tuple[tuple[int, int], ...]


def numba_attention(
    value: Float[Tensor, "batch tokens heads width"],
    shapes: Shapes,
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries heads_times_width"]:
    """`deformable_attention` of CPU tensors, in loops that are compiled on first use.

    Takes up to `torch.get_num_threads()` threads; results and gradients have the same bits with any number of them.
    """
    precise = common_precision(value, shapes, locations, weights)
    output = _NumbaAttention.apply(shapes, *(tensor.contiguous() for tensor in precise))
    return output.flatten(2).to(value.dtype)


class _NumbaAttention(torch.autograd.Function):
    """[batch, queries, heads, width] from contiguous inputs of one precision; differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        shapes, value, locations, weights = arguments
        ctx.shapes = shapes
        ctx.save_for_backward(value, locations, weights)
        output = value.new_empty(*weights.shape[:3], value.shape[-1])
        arrays = _arrays(value.flatten(0, 2), locations, weights, output)
        tasks = output.shape[0] * output.shape[1]
        work = 2 * locations.numel() * value.shape[-1]
        share_among_threads(cpu_loops.forward, cpu_loops.forward_parallel, [_geometry(shapes), *arrays], tasks, work)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return None, *_differentiable_gradients(ctx.shapes, ctx.saved_tensors, gradients[0])
        value, locations, weights = ctx.saved_tensors
        to_value, to_locations, to_weights = map(torch.empty_like, ctx.saved_tensors)
        inputs = _arrays(value.flatten(0, 2), locations, weights, gradients[0].contiguous())
        results = _arrays(to_value.zero_().flatten(0, 2), to_locations, to_weights)
        tasks = value.shape[0] * value.shape[2]
        work = 2 * locations.numel() * value.shape[-1]
        arrays = [_geometry(ctx.shapes), *inputs, *results]
        share_among_threads(cpu_loops.backward, cpu_loops.backward_parallel, arrays, tasks, work)
        return None, to_value, to_locations, to_weights


def _differentiable_gradients(shapes: Shapes, inputs: tuple[Tensor, ...], gradient: Tensor) -> list[Tensor | None]:
    """The gradients with a graph of their own, as `create_graph=True` asks for."""
    output = gather_attention(inputs[0], shapes, *inputs[1:]).view_as(gradient)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


@functools.lru_cache(maxsize=256)
def _geometry(shapes: Shapes) -> np.ndarray:
    """[levels, 3]: height, width and first token of every level."""
    sizes = np.array(shapes, dtype=np.int64)
    areas = sizes.prod(axis=1)
    return np.column_stack([sizes, areas.cumsum() - areas])
