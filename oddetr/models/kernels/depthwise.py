"""The entry to depthwise convolution: chooses the form that suits the inputs."""

import importlib.util

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oddetr.models.kernels.deformable import are_transformed, must_stay_symbolic


def depthwise_conv2d(
    input: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "channels 1 size size"],
    bias: Float[Tensor, " channels"] | None,
    stride: int,
    padding: int,
) -> Float[Tensor, "batch channels _ _"]:
    """`torch.nn.functional.conv2d` with a group for each channel; on a CPU the weight's gradient is faster."""
    if not _suits(input, weight):
        return F.conv2d(input, weight, bias, stride, padding, groups=len(weight))
    from oddetr.models.kernels.depthwise_cpu import NumbaDepthwise

    return NumbaDepthwise.apply(input, weight, bias, stride, padding)


def _suits(input: Tensor, weight: Tensor) -> bool:
    """Whether the weight learns, on a CPU, in one precision, and nothing looks into the operators."""
    plain = all(type(each) in (Tensor, nn.Parameter) and each.device.type == "cpu" for each in (input, weight))
    learns = weight.requires_grad and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    precise = input.dtype == weight.dtype and input.dtype in (torch.float32, torch.float64)
    return plain and learns and precise and not must_stay_symbolic() and not are_transformed() and _has_numba()


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None
