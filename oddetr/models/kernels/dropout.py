"""The entry to dropout: chooses the form that suits the input."""

import functools
import importlib
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oddetr.models.kernels.inputs import are_plain_on, are_transformed, must_stay_symbolic


def dropout_(x: Float[Tensor, "*sizes"], p: float, training: bool, relu: bool = False) -> Float[Tensor, "*sizes"]:
    """Dropout after an optional ReLU, maybe in the memory of `x`, which nothing else may read, backward included.

    y = f(x) m / (1 - p),  m = 1 with probability 1 - p, else 0; y = f(x) where not `training`

    On a CPU the numbers of m come from a hash of the place and of a seed that torch's generator draws: they are the
    same for the same state of it, and are made again in backward rather than kept.

    Args:
        x: the result of a linear map, say; not a leaf of the graph.
        p: in [0, 1).
    """
    form = _cpu_form() if training and p and _learns_on_cpu(x) else None
    return form(x, p, relu) if form else F.dropout(x.relu() if relu else x, p, training)


def _learns_on_cpu(x: Tensor) -> bool:
    plain = are_plain_on("cpu", x) and x.is_contiguous() and x.dtype in (torch.float32, torch.float64)
    return plain and torch.is_grad_enabled() and not (must_stay_symbolic() or are_transformed())


@functools.cache
def _cpu_form() -> Callable[..., Tensor] | None:
    """The numba form, imported on first use; None where numba cannot be imported."""
    try:
        return importlib.import_module("oddetr.models.kernels.dropout_cpu").NumbaDropout.apply
    except ImportError:
        return None
