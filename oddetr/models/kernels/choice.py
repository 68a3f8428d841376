"""What suits a call: our compiled kernels for plain tensors, torch's own operators for all others."""

import functools
import importlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

_NEEDS = {
    "gpu": " Triton needs a C compiler (gcc, clang or what CC names) and Python's headers where it first runs.",
}
"""What our modules need that the package does not bring."""


def is_traced() -> bool:
    """Whether operators are recorded (compilation, export) or transformed (`torch.func`), which needs torch's own."""
    recorded = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()
    # torch has no public function for the latter.
    return recorded or torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]


def are_plain(*tensors: Tensor) -> bool:
    """Whether our loops can read the tensors: of no subclass, and all on one device."""
    plain = all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
    return plain and len({tensor.device for tensor in tensors}) == 1


@functools.cache
def compiled_kernel(module: str, name: str, device: str = "cpu") -> Callable[..., Tensor] | None:
    """The function `name` of a module in this folder; None, with a warning, where it does not compile.

    The module's `trial` runs it once, forward and backward, on that type of device: a compiler may be missing, or not
    fit the card, which raises many kinds of error.
    """
    try:
        found = importlib.import_module(f"oddetr.models.kernels.{module}")
        # What is saved for the trial's backward pass is none of the layer's that gradient checkpointing computes again.
        apart = torch.autograd.graph.saved_tensors_hooks(torch.detach, lambda saved: saved)
        with torch.inference_mode(False), torch.enable_grad(), apart:
            found.trial(device)
    except Exception as reason:
        warnings.warn(
            f"{name} cannot be compiled here; torch's own operators take its place, which are slower."
            f"{_NEEDS.get(module, '')} {type(reason).__name__}: {reason}",
            stacklevel=4,
        )
        return None
    return getattr(found, name)
