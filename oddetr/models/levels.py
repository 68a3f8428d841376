"""The sizes of a pyramid's levels as a tensor."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oddetr.models.kernels.inputs import are_transformed, must_stay_symbolic


def level_sizes(shapes: tuple[tuple[int, int], ...], like: Tensor) -> Float[Tensor, "levels 2"]:
    """(w, h) of levels of (h, w) `shapes`, of the type and on the device of `like`. Read only.

    Cached: copying it to a GPU again would make the host wait for all the work queued there.
    """
    kept = type(like) in (Tensor, nn.Parameter) and not (must_stay_symbolic() or are_transformed())
    return (_level_sizes if kept else _level_sizes.__wrapped__)(shapes, like.dtype, like.device)


@functools.lru_cache(maxsize=256)
def _level_sizes(shapes: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else training could not use what a prediction cached
        return torch.tensor([(w, h) for h, w in shapes], dtype=dtype, device=device)
