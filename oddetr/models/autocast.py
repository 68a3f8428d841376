"""Fewer casts under autocast, which casts the input and the weights of each linear map for itself."""

import torch
from jaxtyping import Float
from torch import Tensor


def lowered(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return x in the precision in which autocast computes linear maps, so that several of them share one cast.

    It is x itself without autocast, and if its precision is another than float32.
    """
    device = x.device.type
    if x.dtype != torch.float32 or not torch.amp.is_autocast_available(device):  # pyright: ignore[reportPrivateImportUsage]
        return x
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
