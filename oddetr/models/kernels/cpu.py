"""Deformable attention on the CPU: loops compiled by numba for float32 or float64, as a differentiable function.

Contiguous arrays: `levels` holds (height, width, first token) of each level; `value` and its gradient are
[batch * tokens * heads, width], `output` and its gradient [batch, queries, heads, width]; the others are shaped as in
`deformable_attention`. Indices: b image, q query, h head, k level, p point, d channel. Of the four pixels around a
point, nw is up and left, se down and right.

Each task, a (b, q) or a (b, h), is done by one thread in one order: no bit depends on the number of threads.
Constants are converted to the precision of the data (`real`): with a Python number numba would go on in float64.
"""

import functools
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from oddetr.models.kernels.compiled import compiled, compiled_inline, compiled_parallel, share_among_threads
from oddetr.models.kernels.inputs import common_precision, level_layout
from oddetr.models.kernels.loops import LoopAttention, Loops, try_once
from oddetr.structures import Shapes


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


trial = functools.partial(try_once, numba_attention)


def _forward(shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    output = value.new_empty(*weights.shape[:3], value.shape[-1])
    arrays = _arrays(shapes, value.flatten(0, 2), locations, weights, output)
    tasks = output.shape[0] * output.shape[1]
    share_among_threads(forward, forward_parallel, arrays, tasks, 2 * locations.numel() * value.shape[-1])
    return output


def _backward(
    shapes: Shapes, value: Tensor, locations: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    to_value, to_locations, to_weights = torch.zeros_like(value), torch.empty_like(locations), torch.empty_like(weights)
    results = (to_value.flatten(0, 2), to_locations, to_weights)
    arrays = _arrays(shapes, value.flatten(0, 2), locations, weights, gradient, *results)
    tasks = value.shape[0] * value.shape[2]
    share_among_threads(backward, backward_parallel, arrays, tasks, 2 * locations.numel() * value.shape[-1])
    return to_value, to_locations, to_weights


_LOOPS = Loops(_forward, _backward)


def _arrays(shapes: Shapes, *tensors: Tensor) -> list[np.ndarray]:
    return [_levels(shapes), *(tensor.detach().numpy() for tensor in tensors)]


@functools.lru_cache(maxsize=256)
def _levels(shapes: Shapes) -> np.ndarray:
    return np.array(level_layout(shapes), dtype=np.int64)


@compiled_inline
@no_type_check
def _position(location, height, width):
    """(x, y) of a location in pixels, whether it touches the level, and its value if not: 0, or NaN if not finite."""
    real = type(location[0])
    x = location[0] * real(width) - real(0.5)
    y = location[1] * real(height) - real(0.5)
    touches = real(-1) < x < real(width) and real(-1) < y < real(height)
    return x, y, touches, (x + y) * real(0)


@compiled_inline
@no_type_check
def _neighbours(position, size):
    """The two pixels around a position on an axis of `size` pixels: indices, shares, slopes of the shares.

    position = i + t with i whole: pixels (i, i + 1), shares (1 - t, t), slopes (-1, 1). A pixel outside has share and
    slope 0, and the index of the other.
    """
    real = type(position)
    whole = np.floor(position)
    low, share = int(whole), position - whole
    low_share = real(1) - share if low >= 0 else real(0)
    low_slope = real(-1) if low >= 0 else real(0)
    high_share = share if low + 1 < size else real(0)
    high_slope = real(1) if low + 1 < size else real(0)
    return (max(low, 0), min(low + 1, size - 1)), (low_share, high_share), (low_slope, high_slope)


@compiled
@no_type_check
def forward(levels, value, locations, weights, output, first, last):
    """Fills `output` for the pairs (b, q) from `first` to before `last`."""
    batch, queries, heads, _, points, _ = locations.shape
    tokens = len(value) // (batch * heads)
    real = value.dtype.type
    for pair in range(first, last):
        b, q = divmod(pair, queries)
        for h in range(heads):
            result = output[b, q, h]
            result[:] = real(0)
            for k in range(len(levels)):
                height, width, start = levels[k]
                origin = (b * tokens + start) * heads + h
                for p in range(points):
                    x, y, touches, otherwise = _position(locations[b, q, h, k, p], height, width)
                    if not touches:
                        if otherwise != real(0):
                            result[:] = otherwise
                        continue
                    (west, east), (w, e), _ = _neighbours(x, width)
                    (north, south), (n, s), _ = _neighbours(y, height)
                    upper, lower = origin + north * width * heads, origin + south * width * heads
                    nw, ne = value[upper + west * heads], value[upper + east * heads]
                    sw, se = value[lower + west * heads], value[lower + east * heads]
                    weight = weights[b, q, h, k, p]
                    c_nw, c_ne, c_sw, c_se = weight * n * w, weight * n * e, weight * s * w, weight * s * e
                    for d in range(len(result)):
                        result[d] += c_nw * nw[d] + c_ne * ne[d] + c_sw * sw[d] + c_se * se[d]


@compiled_inline
@no_type_check
def _products(vector, nw, ne, sw, se):
    """Inner products of `vector` with each of the four others."""
    zero = vector.dtype.type(0)
    p_nw, p_ne, p_sw, p_se = zero, zero, zero, zero
    for d in range(len(vector)):
        p_nw += vector[d] * nw[d]
        p_ne += vector[d] * ne[d]
        p_sw += vector[d] * sw[d]
        p_se += vector[d] * se[d]
    return p_nw, p_ne, p_sw, p_se


@compiled_inline
@no_type_check
def _add_scaled(target, scale, vector):
    """target += scale * vector."""
    for d in range(len(vector)):
        target[d] += scale * vector[d]


@compiled
@no_type_check
def backward(levels, value, locations, weights, gradient, to_value, to_locations, to_weights, first, last):
    """Fills the gradients `to_*` for the pairs (b, h) from `first` to before `last`; `to_value` holds zeros before.

    With g the gradient of the output, and a pixel v of shares r_x, r_y with slopes r_x', r_y':
    v receives weight r_x r_y g; the weight r_x r_y <g, v>; x receives weight width r_x' r_y <g, v>, and y likewise.
    """
    batch, queries, heads, _, points, _ = locations.shape
    tokens = len(value) // (batch * heads)
    real = value.dtype.type
    for b in range(batch):
        for q in range(queries):
            for h in range(max(first - b * heads, 0), min(last - b * heads, heads)):
                g = gradient[b, q, h]
                for k in range(len(levels)):
                    height, width, start = levels[k]
                    origin = (b * tokens + start) * heads + h
                    for p in range(points):
                        x, y, touches, otherwise = _position(locations[b, q, h, k, p], height, width)
                        if not touches:
                            to_locations[b, q, h, k, p, 0] = otherwise
                            to_locations[b, q, h, k, p, 1] = otherwise
                            to_weights[b, q, h, k, p] = otherwise
                            continue
                        (west, east), (w, e), (w_slope, e_slope) = _neighbours(x, width)
                        (north, south), (n, s), (n_slope, s_slope) = _neighbours(y, height)
                        upper, lower = origin + north * width * heads, origin + south * width * heads
                        nw, ne = upper + west * heads, upper + east * heads
                        sw, se = lower + west * heads, lower + east * heads
                        g_nw, g_ne, g_sw, g_se = _products(g, value[nw], value[ne], value[sw], value[se])
                        weight = weights[b, q, h, k, p]
                        across = n * (w_slope * g_nw + e_slope * g_ne) + s * (w_slope * g_sw + e_slope * g_se)
                        down = w * (n_slope * g_nw + s_slope * g_sw) + e * (n_slope * g_ne + s_slope * g_se)
                        to_locations[b, q, h, k, p, 0] = weight * real(width) * across
                        to_locations[b, q, h, k, p, 1] = weight * real(height) * down
                        to_weights[b, q, h, k, p] = n * (w * g_nw + e * g_ne) + s * (w * g_sw + e * g_se)
                        _add_scaled(to_value[nw], weight * n * w, g)
                        _add_scaled(to_value[ne], weight * n * e, g)
                        _add_scaled(to_value[sw], weight * s * w, g)
                        _add_scaled(to_value[se], weight * s * e, g)


@compiled_parallel
@no_type_check
def forward_parallel(levels, value, locations, weights, output, threads):
    """`forward` of all pairs (b, q)."""
    pairs = locations.shape[0] * locations.shape[1]
    for thread in numba.prange(threads):
        first, last = pairs * thread // threads, pairs * (thread + 1) // threads
        forward(levels, value, locations, weights, output, first, last)


@compiled_parallel
@no_type_check
def backward_parallel(levels, value, locations, weights, gradient, to_value, to_locations, to_weights, threads):
    """`backward` of all pairs (b, h)."""
    pairs = locations.shape[0] * locations.shape[2]
    for thread in numba.prange(threads):
        first, last = pairs * thread // threads, pairs * (thread + 1) // threads
        backward(levels, value, locations, weights, gradient, to_value, to_locations, to_weights, first, last)
