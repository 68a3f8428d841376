"""The teacher: an exponential moving average (EMA) of the student."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from oddetr.common.text import listed
from oddetr.models.detector import Detector
from oddetr.structures import Predictions, Queries

AUTO_HORIZON = 0.04
"""The default horizon as a fraction of the run's steps; see `DistillationConfig.horizon`."""


def horizon_at(step: int, most: float) -> float:
    """The horizon of the average after t = `step` updates, in steps: h_t = min(most, (10 + t) / 9).

    The corresponding decay, 1 - 1 / h_t = (1 + t) / (10 + t), is the usual EMA warm-up: an early student changes fast.
    """
    return min(most, (10 + step) / 9)


def all_values(part: nn.Module | nn.Parameter) -> Iterator[Tensor]:
    """All parameters and buffers of a module, tied ones once; or the parameter."""
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


def all_finite(values: Sequence[Tensor]) -> Bool[Tensor, ""]:
    """Whether all values are finite and below about 10^19, by a single norm; stays on the device."""
    values = [value.detach() for value in values]  # of parameters, torch would compute each norm apart
    return nn.utils.get_total_norm(values).isfinite()


Place = tuple[dict[str, Any], str]
"""Where a module keeps a value: its dictionary, and the name there."""


@dataclass(frozen=True)
class _Pairs:
    """The places of the values that `Teacher.update` averages, the teacher's and the student's.

    They are found once: to walk all modules takes the host longer than the rest of the update, for which a GPU waits.
    Unlike the tensors, places stay when a detector is loaded or moved to another device.

    Attributes:
        student: whose places these are.
        frozen: its frozen parts, which are left out.
        floats, integers: pairs of places.
    """

    student: Detector
    frozen: tuple[nn.Module | nn.Parameter, ...]
    floats: list[tuple[Place, Place]] = field(default_factory=list[tuple[Place, Place]])
    integers: list[tuple[Place, Place]] = field(default_factory=list[tuple[Place, Place]])

    @classmethod
    def of(cls, teacher: Detector, student: Detector) -> "_Pairs":
        """Raises ValueError if the detectors differ in their number of values."""
        pairs = cls(student, student.frozen)
        frozen = {id(value) for part in student.frozen for value in all_values(part)}
        for place, (kept, name) in zip(_places(teacher), _places(student), strict=True):
            if id(kept[name]) not in frozen:
                some = pairs.floats if kept[name].is_floating_point() else pairs.integers
                some.append((place, (kept, name)))
        return pairs


def _places(detector: Detector) -> Iterator[Place]:
    """The places of all values; tied ones occur once."""
    seen: set[int] = set()
    for module in detector.modules():
        for kept in (module._parameters, module._buffers):  # pyright: ignore[reportPrivateUsage]
            for name, value in kept.items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield kept, name


def _tensors(pairs: Sequence[tuple[Place, Place]]) -> tuple[list[Tensor], list[Tensor]]:
    return [kept[name] for (kept, name), _ in pairs], [kept[name] for _, (kept, name) in pairs]


@dataclass(frozen=True)
class TeacherView:
    """The queries that the teacher decodes, its predictions, and their matching cost; all without gradient."""

    queries: Queries
    predictions: Predictions
    cost: Float[Tensor, "layers batch queries objects"]


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
        self._pairs: _Pairs | None = None
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stays in evaluation mode."""
        return super().train(False)

    def update(self, student: Detector, horizon: float) -> None:
        """Update the average once; `horizon` is the upper limit of `horizon_at`."""
        pairs = self._pairs
        if pairs is None or pairs.student is not student or pairs.frozen is not student.frozen:
            pairs = self._pairs = _Pairs.of(self.detector, student)
        with torch.no_grad():
            weight = 1 / horizon_at(self.steps, horizon)
            torch._foreach_lerp_(*_tensors(pairs.floats), weight)  # pyright: ignore[reportPrivateUsage]
            if pairs.integers:
                torch._foreach_copy_(*_tensors(pairs.integers))  # pyright: ignore[reportPrivateUsage]
            self.steps += 1

    def get_extra_state(self) -> dict[str, int]:
        """The number of steps, for `state_dict`."""
        return {"steps": self.steps}

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of steps."""

        self.steps = int(state["steps"])
