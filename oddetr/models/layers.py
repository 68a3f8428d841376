"""Faster replacements for layers of timm backbones, with the same results and the same names in state dicts."""

from operator import is_
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn

from oddetr.models.kernels.choice import are_plain, is_traced
from oddetr.models.kernels.depthwise import depthwise_conv2d


class FrozenNorm(nn.Module):
    """A frozen batch norm, with the activation that timm puts into some, as one operation over the maps:

    y = act(s x + t),  s = g / sqrt(v + eps),  t = b - s m

    s and t are computed in the buffers' precision, and once: they are kept until a buffer changes. The result has the
    type of the maps, to which s and t are rounded, as autocast rounds a convolution's weights. The buffers have a batch
    norm's names: `weight` g, `bias` b, `running_mean` m, `running_var` v.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        weight, bias = (norm.weight, norm.bias) if norm.affine else (torch.ones_like(mean), torch.zeros_like(mean))
        for name, value in (("weight", weight), ("bias", bias), ("running_mean", mean), ("running_var", var)):
            self.register_buffer(name, value.detach().clone())
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())
        self._kept: _Kept | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but what is kept: a copy has buffers of its own."""
        return self.__dict__ | {"_kept": None}

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Normalise by the learned statistics, and activate."""
        scale, shift = self._scale_and_shift(x.dtype)
        return self.act(self.drop(torch.addcmul(shift, x, scale)))

    def _scale_and_shift(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """s and t: [channels, 1, 1]."""
        buffers = (self.weight, self.bias, self.running_mean, self.running_var)
        if is_traced() or not are_plain(*buffers) or any(buffer.is_inference() for buffer in buffers):
            return self._folded(dtype)
        # Changes in place, such as loading, raise a tensor's version; others, such as moving, replace the tensor.
        versions = tuple(buffer._version for buffer in buffers)  # pyright: ignore[reportPrivateUsage]
        kept = self._kept
        if kept and (kept.dtype, kept.versions) == (dtype, versions) and all(map(is_, kept.buffers, buffers)):
            return kept.folded
        with torch.inference_mode(False):  # else training could not use what a prediction keeps
            self._kept = _Kept(buffers, versions, dtype, self._folded(dtype))
        return self._kept.folded

    def _folded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return scale.view(-1, 1, 1).to(dtype), shift.view(-1, 1, 1).to(dtype)


class _Kept(NamedTuple):
    """Scale and shift of a `FrozenNorm`, and what they were computed from."""

    buffers: tuple[Tensor, ...]
    versions: tuple[int, ...]
    dtype: torch.dtype
    folded: tuple[Tensor, Tensor]


class DepthwiseConv2d(nn.Conv2d):
    """`depthwise_conv2d` as a layer that takes over the parameters of a depthwise convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        channels, size = convolution.in_channels, cast(tuple[int, int], convolution.kernel_size)
        super().__init__(channels, channels, size, groups=channels, bias=False, device="meta")
        self.stride, self.padding = convolution.stride, convolution.padding
        self.weight, self.bias = convolution.weight, convolution.bias
        self.pads_like_tensorflow = type(convolution) is Conv2dSame

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether it can replace `module`, and trains faster on a CPU; 3x3 kernels are fast already."""
        if type(module) not in (nn.Conv2d, Conv2dSame):
            return False
        convolution = cast(nn.Conv2d, module)
        depthwise = convolution.groups == convolution.in_channels == convolution.out_channels
        sizes = (convolution.kernel_size, convolution.stride, convolution.padding)
        square = all(isinstance(size, tuple) and size[0] == size[1] for size in sizes)
        usual = convolution.dilation == (1, 1) and convolution.padding_mode == "zeros"
        return depthwise and square and usual and convolution.kernel_size[0] > 3

    def forward(self, input: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels _ _"]:
        """Convolves."""
        if self.pads_like_tensorflow:
            input = pad_same(input, [*self.kernel_size], [*self.stride])
        return depthwise_conv2d(input, self.weight, self.bias, self.stride[0], cast(int, self.padding[0]))


def replace_layers(module: nn.Module, freeze_norms: bool) -> None:
    """Replace depthwise convolutions, and batch norms if they are to be frozen, in `module` at any depth."""
    for name, child in list(module.named_children()):
        if freeze_norms and isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenNorm(child))
        elif DepthwiseConv2d.suits(child):
            setattr(module, name, DepthwiseConv2d(cast(nn.Conv2d, child)))
        else:
            replace_layers(child, freeze_norms)
