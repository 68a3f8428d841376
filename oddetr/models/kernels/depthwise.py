"""Depthwise convolution: chooses the implementation that suits the inputs."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oddetr.models.kernels.choice import are_plain, compiled_kernel, is_traced


def depthwise_conv2d(
    input: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "channels 1 size size"],
    bias: Float[Tensor, " channels"] | None,
    stride: int,
    padding: int,
) -> Float[Tensor, "batch channels _ _"]:
    """`torch.nn.functional.conv2d` with a group for each channel; on a CPU the weight's gradient is faster.

    out[b, c, i, j] = bias[c] + sum over k, l of  weight[c, 0, k, l] input[b, c, s i + k - p, s j + l - p]

    Args:
        stride, padding: s and p, in pixels, on both axes; the padding is zeros, on all four sides.
    """
    form = compiled_kernel("depthwise_cpu", "numba_depthwise") if _learns_on_cpu(input, weight) else None
    if form is None:
        return F.conv2d(input, weight, bias, stride, padding, groups=len(weight))
    return form(input, weight, bias, stride, padding)


def _learns_on_cpu(input: Tensor, weight: Tensor) -> bool:
    """Whether the weight learns, on a CPU and in one precision, and no operators are traced."""
    learns = weight.requires_grad and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    precise = input.dtype == weight.dtype and input.dtype in (torch.float32, torch.float64)
    return learns and precise and input.device.type == "cpu" and are_plain(input, weight) and not is_traced()
