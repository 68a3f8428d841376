"""A pretended GPU: a device whose tensors are computed on the CPU, and the places where a real one is waited for.

A wait is what `torch.cuda.set_sync_debug_mode` warns of: a value that Python reads, a copy to the host, a blocking copy
from it, an operation whose result has a size that depends on values.
"""

import traceback
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map_only

DEVICE = torch.device("lazy", 0)
"""Stands for the GPU: a type that torch's autograd knows, and that has no kernels, so that nothing is overlooked."""
_HOST = torch.device("cpu")
_SIZED_BY_VALUES = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave")
_READS = ("_local_scalar_dense", "equal")
_BY_INDICES = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


class OnDevice(Tensor):
    """A tensor of the pretended device, whose values `held` has."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        layout = (held.shape, held.stride(), held.storage_offset())
        tensor = Tensor._make_wrapper_subclass(cls, *layout, dtype=held.dtype, device=DEVICE)
        tensor.held = held
        return tensor

    def tolist(self) -> Any:
        """torch's own reads the memory."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of `pretended_gpu`")


class _Gpu(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, device = func.overloadpacket.__name__, kwargs.get("device")
        tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        if device != DEVICE and not any(each.device == DEVICE for each in tensors):
            return func(*args, **kwargs)
        if wait := _wait(name, args, kwargs, tensors):
            self.waits.append(f"{wait} {_place()}")
        host = {"device": _HOST} if device else {}
        held, held_by_name = tree_map_only(OnDevice, lambda each: each.held, (args, kwargs | host))
        found = func(*held, **held_by_name)
        if device == _HOST or (name == "copy_" and args[0].device == _HOST):
            return found
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, OnDevice, found))


def _wait(name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> str | None:
    """What is waited for, if anything. Raises an error where a GPU refuses tensors of the host."""
    if name in ("_to_copy", "copy_"):
        source, to = (args[1], args[0].device) if name == "copy_" else (args[0], kwargs.get("device"))
        blocking = not (kwargs.get("non_blocking") or args[2:] == (True,))
        if source.device == _HOST:
            return "copy from the host" if blocking else None
        return "copy to the host" if to == _HOST else None
    if name in _READS:
        return "read"
    if name in _SIZED_BY_VALUES:
        return name
    if name in _BY_INDICES:
        indices = [each for each in args[1] if each is not None]
        if any(each.device == _HOST for each in indices):
            return "indices from the host"
        return "boolean indices" if any(each.dtype == torch.bool for each in indices) else None
    if any(each.device == _HOST and each.dim() for each in tensors):
        raise RuntimeError(f"{name} takes tensors of the host and of the device")
    return None


def _place() -> str:
    """The line that waits: the innermost of the package or of transformers, else of the caller."""
    frames = [each for each in traceback.extract_stack() if "/torch/" not in each.filename][:-2]
    inner = [each for each in frames if "/oddetr/" in each.filename or "/transformers/models/" in each.filename]
    frame = (inner or frames)[-1]
    return f"at {frame.filename}:{frame.lineno}: {frame.line}"


@contextmanager
def pretended_gpu() -> Generator[list[str]]:
    """Inside, what is moved `.to(DEVICE)` is computed as if on a GPU, without autocast; gives the waits so far."""
    before, gpu = torch._C._only_lift_cpu_tensors(), _Gpu()
    torch._C._set_only_lift_cpu_tensors(True)  # else the copy in `torch.tensor(..., device=DEVICE)` is not seen
    plain = mock.patch("oddetr.models.deformable_attention.are_plain", return_value=True)
    try:
        with mock.patch("torch.autocast", return_value=nullcontext()), plain, gpu:
            yield gpu.waits
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
