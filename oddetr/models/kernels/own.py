"""Loops of our own: imported on first use, and taken only where they compile and run."""

import functools
import importlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor


@functools.cache
def own_form(module: str, name: str, device: str = "cpu") -> Callable[..., Tensor] | None:
    """The form `name` in a module of this folder; None, with a warning, where it cannot be had.

    The module's `trial` runs it once, forward and backward, on a type of device: a compiler may be missing, or too new
    for the card, which shows in many kinds of error.
    """
    try:
        found = importlib.import_module(f"oddetr.models.kernels.{module}")
        with torch.inference_mode(False), torch.enable_grad():
            found.trial(device)
    except Exception as reason:
        warnings.warn(
            f"{name} cannot be compiled here; torch's own operators take its place, which are several times slower. "
            f"{type(reason).__name__}: {reason}",
            stacklevel=4,
        )
        return None
    return getattr(found, name)
