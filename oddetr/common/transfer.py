"""Copies from a device to the host."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor


def to_host(tensors: Sequence[Shaped[Tensor, "..."]]) -> list[Shaped[Tensor, "..."]]:
    """Copy tensors of one device to the host, all at once: each copy waits for the work that the device has queued.

    Shapes and types stay, but integers go as floats beside floats: float32 holds those up to 2^24 exactly. At least one
    tensor.
    """
    flat = torch.cat([each.flatten() for each in tensors]).cpu()
    parts = flat.split([each.numel() for each in tensors])
    return [part.view(each.shape).to(each.dtype) for part, each in zip(parts, tensors, strict=True)]
