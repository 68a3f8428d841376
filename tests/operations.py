"""Counts of the operations that work gives to its device."""

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Within it, counts operations that are no views, by name, and casts by the shape of what is cast."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.casts: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view:
            self.names[name] += 1
        if name == "_to_copy" and isinstance(result, Tensor) and result.dtype != args[0].dtype:
            self.casts[tuple(result.shape)] += 1
        return result
