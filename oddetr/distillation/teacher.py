"""The teacher: the exponential moving average of the student."""

import copy
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool
from torch import nn

from oddetr.common.text import listed
from oddetr.models.detector import Detector

AUTO_HORIZON = 0.04
"""Of the run's steps; see `DistillationConfig.horizon`."""


def horizon_at(step: int, most: float) -> float:
    """Steps that the average reaches back after `step` updates: h_t = min(most, (10 + t) / 9), from 10/9 on.

    It grows with the run, since a young student changes fast (ours; the same warm-up as in other EMA codes).
    """
    return min(most, (10 + step) / 9)


def all_values(detector: Detector) -> Iterator[torch.Tensor]:
    """Parameters and buffers, each once, however many names it has."""
    return chain(detector.parameters(), detector.buffers())


class NonFiniteStudentError(FloatingPointError):
    """The student holds NaN or infinity, which its teacher does not take in."""

    def __init__(self, student: Detector) -> None:
        named = chain(student.named_parameters(), student.named_buffers())
        bad = [name for name, value in named if value.is_floating_point() and not value.isfinite().all()]
        told = listed(bad) or "values so large that the sum of their squares is infinite"
        super().__init__(
            f"After the optimizer's step the student holds NaN or infinity: {told}. Its teacher stays as it was. The "
            "training has diverged: try a lower learning rate, or float32."
        )


def all_finite(values: Sequence[torch.Tensor]) -> Bool[torch.Tensor, ""]:
    """Whether all are finite, and below about 10^19, on their device: by one norm over all."""
    return nn.utils.get_total_norm(values).isfinite()


class Teacher(nn.Module):
    """theta' <- a theta' + (1 - a) theta after each optimizer step, over parameters and floating buffers, where
    1 / (1 - a) = `horizon_at(t, most)`. Integer buffers are copied.

    Always in evaluation mode and without gradient. Starts equal to the student. `state_dict` holds the steps too.

    Attributes:
        detector: the average.
        steps: updates so far.
    """

    def __init__(self, student: Detector) -> None:
        super().__init__()
        self.detector = copy.deepcopy(student).requires_grad_(False)
        self.steps = 0
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode."""
        return super().train(False)

    def update(self, student: Detector, horizon: float) -> None:
        """One step towards the student; `horizon` is the most steps to average over."""
        with torch.no_grad():
            averages: list[torch.Tensor] = []
            targets: list[torch.Tensor] = []
            for average, value in zip(all_values(self.detector), all_values(student), strict=True):
                if average.is_floating_point():
                    averages.append(average)
                    targets.append(value)
                else:
                    average.copy_(value)
            weight = 1 / horizon_at(self.steps, horizon)
            torch._foreach_lerp_(averages, targets, weight)  # pyright: ignore[reportPrivateUsage]
            self.steps += 1

    def get_extra_state(self) -> dict[str, int]:
        """What `state_dict` holds beside the weights."""
        return {"steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        """Takes what `get_extra_state` gave."""
        self.steps = int(state["steps"])
