"""Deformable attention on a GPU: the Triton loops of `gpu_loops` as a differentiable function."""

import contextlib
import functools
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from oddetr.models.kernels import function, gpu_loops
from oddetr.models.kernels.function import LoopAttention, Loops, Shapes
from oddetr.models.kernels.inputs import check_inputs, working_precision

TILE = 512
"""Numbers of a program: its queries times channels, rounded up to a power of 2."""

WARPS = 2


def triton_attention(
    value: Float[Tensor, "batch tokens heads width"],
    shapes: Shapes,
    locations: Float[Tensor, "batch queries heads levels points 2"],
    weights: Float[Tensor, "batch queries heads levels points"],
) -> Float[Tensor, "batch queries heads_times_width"]:
    """`deformable_attention` of GPU tensors (or of CPU tensors in Triton's interpreter), compiled on first use.

    Inputs are read in their own types, which may differ, and summed in float32 (float64 if any input is float64). The
    gradient of `value` is summed by atomic additions: its last bits differ from call to call.
    """
    check_inputs(value, shapes, locations, weights)
    inputs = (tensor.contiguous() for tensor in (value, locations, weights))
    return LoopAttention.apply(_LOOPS, shapes, *inputs).flatten(2)


def trial(device: str) -> None:
    """See `own_form`."""
    function.trial(triton_attention, device)


def _forward(shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    output = value.new_empty(*weights.shape[:3], value.shape[-1])
    _launch(gpu_loops.forward, shapes, (value, locations, weights, output))
    return output


def _backward(
    shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    to_value = torch.zeros_like(value, dtype=working_precision(value, locations, weights))
    to_locations, to_weights = torch.empty_like(locations), torch.empty_like(weights)
    arrays = (value, locations, weights, gradient, to_value, to_locations, to_weights)
    _launch(gpu_loops.backward, shapes, arrays)
    return to_value.to(value.dtype), to_locations, to_weights


_LOOPS = Loops(_forward, _backward)


def _launch(loop: Any, shapes: Shapes, arrays: tuple[Tensor, ...]) -> None:
    """Runs a loop over all blocks of queries, images and heads; `arrays` begin with value, locations and weights."""
    value, _, weights, *_ = arrays
    batch, tokens, heads, width = value.shape
    queries, levels, points = weights.shape[1], weights.shape[3], weights.shape[4]
    if not (batch and queries and heads):
        return
    channels = triton.next_power_of_2(width)
    block = max(1, TILE // channels)
    on_device = torch.cuda.device(value.device) if value.is_cuda else contextlib.nullcontext()
    with on_device:
        loop[triton.cdiv(queries, block), batch * heads](
            _geometry(shapes, value.device),
            *arrays,
            queries,
            tokens,
            heads,
            WIDTH=width,
            LEVELS=levels,
            POINTS=points,
            REAL=tl.float64 if working_precision(*arrays[:3]) == torch.float64 else tl.float32,
            BLOCK=block,
            CHANNELS=channels,
            num_warps=WARPS,
        )


@functools.lru_cache(maxsize=256)
def _geometry(shapes: Shapes, device: torch.device) -> Tensor:
    """[levels, 3] int32 on the device: height, width and first token of every level."""
    sizes = torch.tensor(shapes, dtype=torch.int32)
    areas = sizes.prod(dim=1)
    return torch.column_stack([sizes, areas.cumsum(0) - areas]).to(device, torch.int32)
