"""Our compiled kernels: imported on first use, and used only where they compile and run."""

import functools
import importlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor


@functools.cache
def own_form(module: str, name: str, device: str = "cpu") -> Callable[..., Tensor] | None:
    """The function `name` of a module in this folder; None, with a warning, where it does not compile.

    The module's `trial` runs it once, forward and backward, on that type of device: a compiler may be missing, or not
    fit the card, which raises many kinds of error.
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
