"""Precision of the forward pass; matching, losses and weights are always float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from oddetr.training.config import Precision

LIGHTNINGS: dict[Precision, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Lightning's names."""
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NO_GPU = "fp16 needs a GPU; there is none here. On a CPU use fp32, or bf16 to save memory."


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which Lightning would run a forward pass."""
    kind = _TYPES.get(precision)
    return torch.autocast(device.type, kind, cache_enabled=False) if kind else nullcontext()


def refuse_fp16_on_cpu(precision: Precision, accelerator: str) -> None:
    """Refuse fp16 without a GPU, before anything is read.

    Args:
        accelerator: Lightning's flag, or `auto`.

    Raises:
        ValueError: the run would use fp16 on a CPU.
    """
    if precision == "fp16" and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ValueError(_NO_GPU)


def check_lightnings(precision: Precision, chosen: str) -> None:
    """Check the precision that Lightning has `chosen`: on a CPU it replaces fp16 by bf16.

    Raises:
        ValueError: it did.
    """
    if precision == "fp16" and chosen != LIGHTNINGS["fp16"]:
        raise ValueError(_NO_GPU)
