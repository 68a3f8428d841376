"""Depthwise convolution on the CPU, with our own loop for the weight's gradient.

oneDNN is fast for 3x3 kernels only: at 5x5 this gradient takes 5 to 13 times as long as the rest.
"""

from typing import Any, no_type_check

import numba
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from oddetr.models.kernels.compiled import compiled, compiled_parallel, share_among_threads

_BLOCK = 64
"""Channels per task, so that the sums of a kernel stay in the nearest cache."""


def numba_depthwise(input: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """`depthwise_conv2d`."""
    return NumbaDepthwise.apply(input, weight, bias, stride, padding)


def trial(device: str) -> None:
    """Runs it once; see `compiled_kernel`."""
    image, weight = torch.ones(1, 1, 5, 5, device=device), torch.ones(1, 1, 5, 5, device=device).requires_grad_()
    numba_depthwise(image, weight, None, 1, 2).sum().backward()


class NumbaDepthwise(torch.autograd.Function):
    """(input, weight, bias or None, stride, padding) -> `depthwise_conv2d`."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        input, weight, bias, stride, padding = arguments
        ctx.save_for_backward(input, weight)
        ctx.geometry = stride, padding
        return F.conv2d(input, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]: the decorator's type has other parameters
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        for_input, for_weight, for_bias, *_ = ctx.needs_input_grad
        to_input, _, to_bias = torch.ops.aten.convolution_backward(
            gradients[0], input, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight),
            [for_input, False, for_bias],
        )  # fmt: skip
        to_weight = _weight_gradient(input, gradients[0], weight.shape[-1], stride, padding) if for_weight else None
        return to_input, to_weight, to_bias, None, None


def _weight_gradient(input: Tensor, gradient: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """[channels, 1, size, size] from input and output's gradient."""
    channels = input.shape[1]
    found = input.new_zeros(size, size, channels)
    arrays = [each.detach().permute(0, 2, 3, 1).contiguous().numpy() for each in (input, gradient)]
    work = gradient.numel() * size**2
    share_among_threads(_serial, _parallel, [*arrays, stride, padding, found.numpy()], -(-channels // _BLOCK), work)
    return found.permute(2, 0, 1)[:, None]


@compiled
@no_type_check
def _serial(input, gradient, stride, padding, found, first, last):
    """Fills `found` for the blocks of channels from `first` to before `last`; it holds zeros before.

    found[k, m, c] = sum over images b and outputs i, j of
    gradient[b, i, j, c] input[b, stride i + k - padding, stride j + m - padding, c]
    """
    images, height, width, channels = input.shape
    _, rows, columns, _ = gradient.shape
    size = len(found)
    for block in range(first, last):
        channel, end = block * _BLOCK, min((block + 1) * _BLOCK, channels)
        for b in range(images):
            for i in range(rows):
                top = i * stride - padding
                for j in range(columns):
                    left = j * stride - padding
                    out = gradient[b, i, j, channel:end]
                    for k in range(max(0, -top), min(size, height - top)):
                        for m in range(max(0, -left), min(size, width - left)):
                            seen = input[b, top + k, left + m, channel:end]
                            target = found[k, m, channel:end]
                            for c in range(len(out)):
                                target[c] += out[c] * seen[c]


@compiled_parallel
@no_type_check
def _parallel(input, gradient, stride, padding, found, threads):
    """`_serial` of all blocks."""
    blocks = (input.shape[3] + _BLOCK - 1) // _BLOCK
    for thread in numba.prange(threads):
        first, last = blocks * thread // threads, blocks * (thread + 1) // threads
        _serial(input, gradient, stride, padding, found, first, last)
