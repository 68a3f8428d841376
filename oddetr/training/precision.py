"""Precision of the forward pass; matching, losses and weights are always float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from oddetr.training.config import Precision

LIGHTNINGS: dict[Precision, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Lightning's names."""
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which Lightning would run a forward pass."""
    kind = _TYPES.get(precision)
    return torch.autocast(device.type, kind, cache_enabled=False) if kind else nullcontext()
