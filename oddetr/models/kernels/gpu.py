"""Deformable attention on a GPU: loops in Triton, as a differentiable function.

Sums are in the type `REAL`, float32 or float64. Contiguous arrays: `levels` holds (height, width, first token) of each
level, int32; the others are shaped as in `deformable_attention`, the output and its gradient [batch, queries, heads,
width]. A program does the queries q of a block for one image b and head h; k is a level, p a point, d a channel. Of the
four pixels around a point, nw is up and left, se down and right; one outside its level is read as 0.
"""

import contextlib
import functools
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from oddetr.models.kernels.inputs import check_inputs, level_layout, working_precision
from oddetr.models.kernels.loops import LoopAttention, Loops, try_once
from oddetr.structures import Shapes

TILE = 256
"""Numbers of a warp: its queries times channels, rounded up to a power of 2. That is 8 in each thread."""


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


trial = functools.partial(try_once, triton_attention)


def _forward(shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    output = value.new_empty(*weights.shape[:3], value.shape[-1])
    _launch(forward, shapes, (value, locations, weights, output), warps=2)
    return output


def _backward(
    shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    to_value = torch.zeros_like(value, dtype=working_precision(value, locations, weights))
    to_locations, to_weights = torch.empty_like(locations), torch.empty_like(weights)
    arrays = (value, locations, weights, gradient, to_value, to_locations, to_weights)
    _launch(backward, shapes, arrays, warps=1)  # with more they wait for one another at each point
    return to_value.to(value.dtype), to_locations, to_weights


_LOOPS = Loops(_forward, _backward)


def _launch(loop: Any, shapes: Shapes, arrays: tuple[Tensor, ...], warps: int) -> None:
    """Runs a loop over all blocks of queries, images and heads; `arrays` begin with value, locations and weights.

    Raises:
        ValueError: the value of an image has 2^31 numbers or more, which offsets of 32 bits do not reach.
    """
    value, _, weights, *_ = arrays
    batch, tokens, heads, width = value.shape
    if tokens * heads * width >= 1 << 31:
        raise ValueError(f"An image of {tokens:,} tokens x {heads} heads x {width} is too large; use smaller images.")
    queries, levels, points = weights.shape[1], weights.shape[3], weights.shape[4]
    if not (batch and queries and heads):
        return
    channels = triton.next_power_of_2(width)
    block = max(1, warps * TILE // channels)
    on_device = torch.cuda.device(value.device) if value.is_cuda else contextlib.nullcontext()
    with on_device:
        loop[triton.cdiv(queries, block), batch * heads](
            _levels(shapes, value.device),
            *arrays,
            queries,
            tokens,
            HEADS=heads,
            WIDTH=width,
            LEVELS=levels,
            POINTS=points,
            REAL=tl.float64 if working_precision(*arrays[:3]) == torch.float64 else tl.float32,
            BLOCK=block,
            CHANNELS=channels,
            num_warps=warps,
        )


_jit = triton.jit(do_not_specialize=["queries", "tokens"])
"""Compiles a loop once for all numbers of queries and tokens: knowing that 16 divides them would gain little."""


@functools.lru_cache(maxsize=256)
def _levels(shapes: Shapes, device: torch.device) -> Tensor:
    return torch.tensor(level_layout(shapes), dtype=torch.int32).to(device)


@triton.jit
@no_type_check
def _place(locations, point, queried, height, width, REAL: tl.constexpr):
    """Of a point: the pixel nw as (row, column), shares (down, right) of the pixels se, whether it touches its level,
    and its value elsewhere: 0, or NaN if it is not finite."""
    x = tl.load(locations + 2 * point, mask=queried, other=0.0).to(REAL) * width - 0.5
    y = tl.load(locations + 2 * point + 1, mask=queried, other=0.0).to(REAL) * height - 0.5
    touches = (x > -1) & (x < width) & (y > -1) & (y < height)
    otherwise = tl.where(touches, 0.0, (x + y) * 0.0)
    x, y = tl.where(touches, x, 0.0), tl.where(touches, y, 0.0)
    column, row = tl.floor(x), tl.floor(y)
    return row.to(tl.int32), column.to(tl.int32), y - row, x - column, touches & queried, otherwise


@triton.jit
@no_type_check
def _pixel(row, column, touches, height, width, start, stride, channel, WIDTH: tl.constexpr):
    """Where the channels of a pixel lie in its image and head, and which of them are there."""
    there = touches & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    offset = (start + row * width + column) * stride
    return offset[:, None] + channel[None, :], there[:, None] & (channel < WIDTH)[None, :]


@_jit
@no_type_check
def forward(
    levels,
    value,
    locations,
    weights,
    output,
    queries,
    tokens,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Fills `output` for a block of queries (first axis of the grid) of an image and head (second axis)."""
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b, h = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    queried, d, stride = q < queries, tl.arange(0, CHANNELS), HEADS * WIDTH
    pair = (b * queries + q) * HEADS + h
    image = value + (b * tokens * HEADS + h) * WIDTH
    result = tl.zeros([BLOCK, CHANNELS], REAL)
    for k in range(LEVELS):
        height, width, start = tl.load(levels + 3 * k), tl.load(levels + 3 * k + 1), tl.load(levels + 3 * k + 2)
        for p in range(POINTS):
            point = (pair * LEVELS + k) * POINTS + p
            row, column, down, right, touches, otherwise = _place(locations, point, queried, height, width, REAL)
            weight = tl.load(weights + point, mask=queried, other=0.0).to(REAL)
            nw, is_nw = _pixel(row, column, touches, height, width, start, stride, d, WIDTH)
            ne, is_ne = _pixel(row, column + 1, touches, height, width, start, stride, d, WIDTH)
            sw, is_sw = _pixel(row + 1, column, touches, height, width, start, stride, d, WIDTH)
            se, is_se = _pixel(row + 1, column + 1, touches, height, width, start, stride, d, WIDTH)
            up, left = 1 - down, 1 - right
            result += (weight * up * left)[:, None] * tl.load(image + nw, mask=is_nw, other=0.0).to(REAL)
            result += (weight * up * right)[:, None] * tl.load(image + ne, mask=is_ne, other=0.0).to(REAL)
            result += (weight * down * left)[:, None] * tl.load(image + sw, mask=is_sw, other=0.0).to(REAL)
            result += (weight * down * right)[:, None] * tl.load(image + se, mask=is_se, other=0.0).to(REAL)
            result += otherwise[:, None]
    filled = queried[:, None] & (d < WIDTH)[None, :]
    tl.store(output + pair[:, None] * WIDTH + d[None, :], result.to(output.dtype.element_ty), mask=filled)


@_jit
@no_type_check
def backward(
    levels,
    value,
    locations,
    weights,
    gradient,
    to_value,
    to_locations,
    to_weights,
    queries,
    tokens,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    REAL: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Fills the gradients `to_*`, on the same grid; `to_value`, of type `REAL`, holds zeros before.

    With g the gradient of the output and v a pixel: v receives weight * share * g; the weight receives the sum of
    share * <g, v>; x receives weight * width * (the difference of <g, v> from left to right), and y likewise.
    """
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b, h = (tl.program_id(1) // HEADS).to(tl.int64), tl.program_id(1) % HEADS
    queried, d, stride = q < queries, tl.arange(0, CHANNELS), HEADS * WIDTH
    pair = (b * queries + q) * HEADS + h
    first = (b * tokens * HEADS + h) * WIDTH
    image, to_image = value + first, to_value + first
    filled = queried[:, None] & (d < WIDTH)[None, :]
    g = tl.load(gradient + pair[:, None] * WIDTH + d[None, :], mask=filled, other=0.0).to(REAL)
    for k in range(LEVELS):
        height, width, start = tl.load(levels + 3 * k), tl.load(levels + 3 * k + 1), tl.load(levels + 3 * k + 2)
        for p in range(POINTS):
            point = (pair * LEVELS + k) * POINTS + p
            row, column, down, right, touches, otherwise = _place(locations, point, queried, height, width, REAL)
            weight = tl.load(weights + point, mask=queried, other=0.0).to(REAL)
            nw, is_nw = _pixel(row, column, touches, height, width, start, stride, d, WIDTH)
            ne, is_ne = _pixel(row, column + 1, touches, height, width, start, stride, d, WIDTH)
            sw, is_sw = _pixel(row + 1, column, touches, height, width, start, stride, d, WIDTH)
            se, is_se = _pixel(row + 1, column + 1, touches, height, width, start, stride, d, WIDTH)
            g_nw = tl.sum(g * tl.load(image + nw, mask=is_nw, other=0.0).to(REAL), axis=1)
            g_ne = tl.sum(g * tl.load(image + ne, mask=is_ne, other=0.0).to(REAL), axis=1)
            g_sw = tl.sum(g * tl.load(image + sw, mask=is_sw, other=0.0).to(REAL), axis=1)
            g_se = tl.sum(g * tl.load(image + se, mask=is_se, other=0.0).to(REAL), axis=1)
            up, left = 1 - down, 1 - right
            across = weight * width * (up * (g_ne - g_nw) + down * (g_se - g_sw)) + otherwise
            along = weight * height * (left * (g_sw - g_nw) + right * (g_se - g_ne)) + otherwise
            whole = up * (left * g_nw + right * g_ne) + down * (left * g_sw + right * g_se) + otherwise
            tl.store(to_locations + 2 * point, across.to(to_locations.dtype.element_ty), mask=queried)
            tl.store(to_locations + 2 * point + 1, along.to(to_locations.dtype.element_ty), mask=queried)
            tl.store(to_weights + point, whole.to(to_weights.dtype.element_ty), mask=queried)
            tl.atomic_add(to_image + nw, (weight * up * left)[:, None] * g, mask=is_nw, sem="relaxed")
            tl.atomic_add(to_image + ne, (weight * up * right)[:, None] * g, mask=is_ne, sem="relaxed")
            tl.atomic_add(to_image + sw, (weight * down * left)[:, None] * g, mask=is_sw, sem="relaxed")
            tl.atomic_add(to_image + se, (weight * down * right)[:, None] * g, mask=is_se, sem="relaxed")
