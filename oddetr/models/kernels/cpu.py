"""Deformable attention on the CPU: the loops of `cpu_loops` as a differentiable function."""

import functools

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oddetr.models.kernels import cpu_loops, function
from oddetr.models.kernels.compiled import share_among_threads
from oddetr.models.kernels.function import LoopAttention, Loops, Shapes
from oddetr.models.kernels.inputs import common_precision


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
    output = LoopAttention.apply(_LOOPS, shapes, *(tensor.contiguous() for tensor in precise))
    return output.flatten(2).to(value.dtype)


def trial(device: str) -> None:
    """See `own_form`."""
    function.trial(numba_attention, device)


def _forward(shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    output = value.new_empty(*weights.shape[:3], value.shape[-1])
    arrays = _arrays(value.flatten(0, 2), locations, weights, output)
    tasks = output.shape[0] * output.shape[1]
    work = 2 * locations.numel() * value.shape[-1]
    share_among_threads(cpu_loops.forward, cpu_loops.forward_parallel, [_geometry(shapes), *arrays], tasks, work)
    return output


def _backward(
    shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    to_value, to_locations, to_weights = map(torch.empty_like, (value, locations, weights))
    inputs = _arrays(value.flatten(0, 2), locations, weights, gradient)
    results = _arrays(to_value.zero_().flatten(0, 2), to_locations, to_weights)
    tasks = value.shape[0] * value.shape[2]
    work = 2 * locations.numel() * value.shape[-1]
    arrays = [_geometry(shapes), *inputs, *results]
    share_among_threads(cpu_loops.backward, cpu_loops.backward_parallel, arrays, tasks, work)
    return to_value, to_locations, to_weights


_LOOPS = Loops(_forward, _backward)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


@functools.lru_cache(maxsize=256)
def _geometry(shapes: Shapes) -> np.ndarray:
    """[levels, 3]: height, width and first token of every level."""
    sizes = np.array(shapes, dtype=np.int64)
    areas = sizes.prod(axis=1)
    return np.column_stack([sizes, areas.cumsum() - areas])
