"""The teacher: an exponential moving average (EMA) of the student."""

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
"""The default horizon as a fraction of the run's steps; see `DistillationConfig.horizon`."""


def horizon_at(step: int, most: float) -> float:
    """The horizon of the average after t = `step` updates, in steps: h_t = min(most, (10 + t) / 9).

    The corresponding decay, 1 - 1 / h_t = (1 + t) / (10 + t), is the usual EMA warm-up: an early student changes fast.
    """
    return min(most, (10 + step) / 9)


def all_values(detector: Detector) -> Iterator[torch.Tensor]:
    """All parameters and buffers; tied ones occur once."""
    return chain(detector.parameters(), detector.buffers())


def _values(part: nn.Module | nn.Parameter) -> Iterator[torch.Tensor]:
    return chain(part.parameters(), part.buffers()) if isinstance(part, nn.Module) else iter((part,))


class NonFiniteStudentError(FloatingPointError):
    """The student holds NaN or infinity, so the teacher was not updated."""

    def __init__(self, student: Detector) -> None:
        named = chain(student.named_parameters(), student.named_buffers())
        bad = [name for name, value in named if value.is_floating_point() and not value.isfinite().all()]
        names = listed(bad) or "values so large that the sum of their squares is infinite"
        super().__init__(
            f"After the optimizer's step the student holds NaN or infinity: {names}. Its teacher stays as it was. The "
            "training has diverged: try a lower learning rate, or float32."
        )


def all_finite(values: Sequence[torch.Tensor]) -> Bool[torch.Tensor, ""]:
    """Whether all values are finite and below about 10^19, by a single norm; stays on the device."""
    values = [value.detach() for value in values]  # of parameters, torch would compute each norm apart
    return nn.utils.get_total_norm(values).isfinite()


class Teacher(nn.Module):
    """An exponential moving average of the student, over parameters and floating-point buffers:

    theta' <- a theta' + (1 - a) theta  after each optimizer step,  1 / (1 - a) = `horizon_at(t, most)`

    Integer buffers are copied; frozen parts stay, since the student's do. The average starts as a copy of the student,
    and stays in evaluation mode and without gradient. `state_dict` includes the number of steps.

    Attributes:
        detector: the averaged detector.
        steps: updates so far, and steps that the optimizer skipped.
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
        """Update the average once; `horizon` is the upper limit of `horizon_at`."""
        kept = {id(value) for part in student.frozen for value in _values(part)}
        with torch.no_grad():
            averages: list[torch.Tensor] = []
            targets: list[torch.Tensor] = []
            for average, value in zip(all_values(self.detector), all_values(student), strict=True):
                if id(value) in kept:
                    continue
                if average.is_floating_point():
                    averages.append(average)
                    targets.append(value)
                else:
                    average.copy_(value)
            weight = 1 / horizon_at(self.steps, horizon)
            torch._foreach_lerp_(averages, targets, weight)  # pyright: ignore[reportPrivateUsage]
            self.steps += 1

    def get_extra_state(self) -> dict[str, int]:
        """The number of steps, for `state_dict`."""
        return {"steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of steps."""

        self.steps = int(state["steps"])
