"""The entry to dropout: chooses the form that suits the input."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from oddetr.models.kernels.inputs import are_plain_on, are_transformed, must_stay_symbolic
from oddetr.models.kernels.own import own_form


def dropout_(x: Float[Tensor, "*sizes"], p: float, training: bool, relu: bool = False) -> Float[Tensor, "*sizes"]:
    """Dropout after an optional ReLU, maybe in the memory of `x`, which nothing else may read, backward included.

    y = f(x) m / (1 - p),  m = 1 with probability 1 - p, else 0; y = f(x) where not `training`

    On a CPU the numbers of m come from a hash of the place and of a seed that torch's generator draws: they are the
    same for the same state of it, and are made again in backward rather than kept.

    Args:
        x: the result of a linear map, say: not a parameter's view, nor what a hook keeps, since autograd is not told
            that it changes.
        p: in [0, 1).
    """
    form = own_form("dropout_cpu", "numba_dropout") if training and p and _can_be_written(x) else None
    return form(x, p, relu) if form else F.dropout(x.relu() if relu else x, p, training)


def _can_be_written(x: Tensor) -> bool:
    """Whether loops of our own can write to it: on a CPU, not to a leaf, and nothing looks into the operators."""
    plain = are_plain_on("cpu", x) and x.is_contiguous() and x.dtype in (torch.float32, torch.float64)
    leaf = x.requires_grad and x.is_leaf
    return plain and not (leaf or must_stay_symbolic() or are_transformed())
