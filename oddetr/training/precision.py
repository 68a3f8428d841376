"""In what precision a forward pass computes; matching, losses and weights are float32 in each."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from oddetr.training.config import Precision

LIGHTNINGS: dict[Precision, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""What Lightning calls them."""
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NO_GPU = "fp16 needs a GPU; there is none here. On a CPU use fp32, or bf16 to save memory."


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass outside of Lightning, as Lightning has it inside."""
    kind = _TYPES.get(precision)
    return torch.autocast(device.type, kind, cache_enabled=False) if kind else nullcontext()


def refuse_fp16_on_cpu(precision: Precision, accelerator: str) -> None:
    """Before anything is read.

    Args:
        accelerator: Lightning's flag, or `auto`.

    Raises:
        ValueError: the run would be fp16 on a CPU.
    """
    if precision == "fp16" and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ValueError(_NO_GPU)


def check_lightnings(precision: Precision, chosen: str) -> None:
    """After Lightning has chosen: on a CPU it takes bf16 for fp16, however it came to be on a CPU.

    Raises:
        ValueError: it did.
    """
    if precision == "fp16" and chosen != LIGHTNINGS["fp16"]:
        raise ValueError(_NO_GPU)
