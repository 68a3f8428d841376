"""A loss or a gradient that is not finite is found in its own step, which then moves nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from oddetr.common.text import listed
from oddetr.distillation.task import DistillationTask
from oddetr.distillation.teacher import NonFiniteStudentError, all_finite, all_values
from oddetr.losses.matching import NonFiniteCostError
from oddetr.structures import Batch
from oddetr.training.config import NonFinite

MOST_IN_A_ROW = 20
"""Steps that are left out one after another before the training stops whatever the policy. An odd image spoils the step
that it is in; where steps of twenty different batches are spoilt, the detector is."""


@dataclass(frozen=True)
class Place:
    """Where in a run a batch is learned from.

    Attributes:
        step: optimizer steps done before.
        epoch: from 0.
        batch: of the epoch and this process, from 0.
        process: from 0.
        seed: of all that is random in the batch's forward pass.
    """

    step: int
    epoch: int
    batch: int
    process: int
    seed: int


@dataclass(frozen=True)
class Accident:
    """What is known of the batch that spoilt a step.

    Attributes:
        batch: the batch; place: where it is in the run.
        parts: the loss and its parts, by the names of metrics.jsonl.
        images: ids of images for which NaN or infinity was predicted; empty where that is not the cause.
        statistics: batch norms' running statistics that are not finite, by name; they are set back.
        gradients: parameters whose gradient is not finite, by name; only looked for where the loss is finite.
        here: False where the loss of this process is finite and that of others may not be.
    """

    batch: Batch
    place: Place
    parts: dict[str, float]
    images: tuple[int, ...]
    statistics: tuple[str, ...]
    gradients: tuple[str, ...]
    here: bool

    @property
    def losses(self) -> tuple[str, ...]:
        """The parts of the loss that are not finite; the whole, where all its parts are finite."""
        bad = tuple(name for name, value in self.parts.items() if not math.isfinite(value))
        return tuple(name for name in bad if name != "loss") or bad

    def __str__(self) -> str:
        found = [f"the detector predicts NaN or infinity for {_ids(self.images)}"] if self.images else []
        if self.losses:
            named = [f"{name} ({self.parts[name]})" for name in self.losses]
            found.append(f"the loss is not finite: {listed(named)}")
        elif self.statistics:
            found.append(f"the statistics of batch norms are not finite: {listed([*self.statistics])}")
        elif not self.images:
            which = listed([*self.gradients]) or "only its norm; each value is finite"
            found.append(f"the loss is finite, but its gradient is not: {which}")
        return "; ".join(found)


@dataclass
class _Part:
    """A batch of the step; `finite` of its loss and statistics, `norm` of the gradient up to it, on the device."""

    batch: Batch
    place: Place
    found: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    images: tuple[int, ...] = ()
    finite: Tensor | None = None
    norm: Tensor | None = None


class StepWatch:
    """Looks at each optimizer step of a run: at loss and gradient before the optimizer moves the student, and at the
    student before the teacher takes it in.

    Two flags are read from the device, together, at the end of the step: nothing else waits. A loss that is not finite
    becomes NaN, so that the gradient is NaN in all processes, and all come to the same end. Where the gradient's norm
    is not finite the fused optimizer leaves its step out, as it does for gradient scaling, and the statistics of batch
    norms are set back.

    In fp16, a gradient that is not finite is what the gradient's scaling provokes and cures, as long as the scale is 1
    or more.

    Attributes:
        skipped: steps of the run that were left out; in_a_row: without a good one between them and now.
        left_out: whether the last step was.

    Args:
        task: what is trained.
        policy: of `TrainConfig.non_finite`.
        keep: writes a replay file.
        files: the files of images by their ids, as far as they are known.
        say: tells the user.
    """

    def __init__(
        self,
        task: DistillationTask,
        policy: NonFinite = "stop",
        keep: Callable[[Accident], Path] | None = None,
        files: Callable[[Sequence[int]], list[str]] = lambda ids: [],
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.task, self.policy, self.keep, self.files, self.say = task, policy, keep, files, say
        self.skipped, self.in_a_row, self.left_out = 0, 0, False
        self._parts: list[_Part] = []
        self._norm: Tensor | None = None

    def start(self) -> None:
        """The run begins, or goes on; all is on its device."""
        self._learned = [parameter for _, parameter in self.task.learned()]
        self._student = [value for value in all_values(self.task.student) if value.is_floating_point()]
        self._buffers = [*self.task.student.buffers()]
        self._statistics = [buffer for buffer in self._buffers if buffer.is_floating_point()]
        self._before = [buffer.clone() for buffer in self._buffers]

    def begin(self, batch: Batch, place: Place) -> None:
        """A batch of the step; before the first, statistics are kept."""
        if not self._parts:
            _copy(self._before, self._buffers)
        self._parts.append(_Part(batch, place))

    def loss(self, found: dict[str, Tensor], error: NonFiniteCostError | None = None) -> Float[Tensor, ""]:
        """The batch's loss, NaN where something of this process is not finite; `error`: what the matching found."""
        part = self._parts[-1]
        part.found = {name: value.detach() for name, value in found.items()}
        part.images = tuple(part.batch.image_ids[index] for index in error.images) if error else ()
        finite = part.found["loss"].isfinite()
        if self._statistics:
            finite = finite & all_finite(self._statistics)
        part.finite = finite
        return found["loss"] * torch.where(finite, 1.0, torch.nan)

    def batch_ends(self) -> None:
        """After the backward pass of one of several batches of the step."""
        self._parts[-1].norm = nn.utils.get_total_norm(self._gradients())

    def gradient(self, optimizer: Optimizer, clip: float, scaled: bool) -> None:
        """Clips the gradient to the norm `clip` (0: does not); where it is not finite the optimizer will not move
        (`scaled`: by its gradient scaler)."""
        self._norm = norm = nn.utils.get_total_norm(self._gradients())
        finite = norm.isfinite()
        if clip:
            # A gradient that is not finite is left as it is, to be looked at.
            nn.utils.clip_grads_with_norm_(self._learned, clip, torch.where(finite, norm, 0.0))
        if not scaled:
            setattr(optimizer, "found_inf", (~finite).float())  # noqa: B010

    def passed(self, scaler: torch.amp.GradScaler | None = None) -> bool:
        """After the optimizer's step: whether it was made. Waits for the device.

        Args:
            scaler: of gradients in fp16. That its scale was too large for a gradient is usual: no step is made, the
                scale is halved, and nothing is counted.

        Raises:
            FloatingPointError: it was not, and the policy is to stop, or too many were not.
            NonFiniteStudentError: it was, and the student is not finite.
        """
        assert self._norm is not None
        finite, sound = torch.stack([self._norm.isfinite(), all_finite(self._student)]).tolist()
        parts, self._parts = self._parts, []
        usual = not finite and scaler is not None and scaler.get_scale() >= 1 and self._all_losses_finite(parts)
        self.left_out = not finite and not usual
        if not self.left_out:
            self.in_a_row = 0 if finite else self.in_a_row
            if not sound:
                raise NonFiniteStudentError(self.task.student)
            return finite
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        self._leave_out(self._accident(parts))
        return False

    def state(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load(self, state: dict[str, int]) -> None:
        """Takes it back."""
        self.skipped, self.in_a_row = state.get("skipped", 0), state.get("in_a_row", 0)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._learned if parameter.grad is not None]

    def _all_losses_finite(self, parts: Sequence[_Part]) -> bool:
        """In all processes, which ask together: their gradients are the same."""
        return not any(_gathered(not all(bool(part.finite) for part in parts)))

    def _accident(self, parts: Sequence[_Part]) -> Accident:
        """What is known of the step's first batch that spoilt it; sets the statistics back."""
        bad = next((part for part in parts if not part.finite), None)
        early = next((part for part in parts if part.norm is not None and not part.norm.isfinite()), None)
        part = bad or early or parts[-1]
        named = self.task.student.named_buffers()
        statistics = tuple(name for name, value in named if value.is_floating_point() and not value.isfinite().all())
        _copy(self._buffers, self._before)
        learned = self.task.learned()
        wrong = (name for name, each in learned if each.grad is not None and not each.grad.isfinite().all())
        values = {name: value.item() for name, value in part.found.items()}
        here = bad is not None or part is not parts[-1] or not _several()
        return Accident(part.batch, part.place, values, part.images, statistics, () if bad else tuple(wrong), here)

    def _leave_out(self, accident: Accident) -> None:
        """Tells of the step, all processes alike, and ends the training if it must."""
        known = any(_gathered(accident.here))
        lost = not bool(all_finite(self._student))
        stops = self.policy == "stop" or lost or self.in_a_row >= MOST_IN_A_ROW
        told = self._told(accident, stops or self.skipped == 1) if accident.here or not known else None
        found = " | ".join(text for text in _gathered(told) if text)
        if self.policy == "stop":
            raise FloatingPointError(
                f"{found} Neither student nor teacher has moved. Lower --optimizer.learning-rate, or train in fp32; or "
                "leave such steps out: --resume --non-finite skip."
            )
        if lost:
            raise FloatingPointError(
                f"{found} The student itself holds NaN or infinity, which no further step would mend. Go on from the "
                "last checkpoint: --resume."
            )
        if stops:
            raise FloatingPointError(
                f"{found} It is the {self.in_a_row}th step in a row that was left out, {self.skipped} in all: the "
                "training has diverged. Begin anew with a lower --optimizer.learning-rate, or in fp32."
            )
        if self.skipped == 1:
            self.say(f"left out: {found} Neither student nor teacher has moved. Further such steps are counted only.")

    def _told(self, accident: Accident, keep: bool) -> str:
        place, ids = accident.place, accident.images or accident.batch.image_ids
        files = self.files(ids)
        process = f" of process {place.process}" if _several() else ""
        step = f"Step {place.step} (epoch {place.epoch + 1}, batch {place.batch}{process})"
        text = f"{step}, images with the ids {_ids(ids)}{f' ({listed(files)})' if files else ''}: {accident}"
        if not (keep and self.keep):
            return f"{text}."
        try:
            return f"{text} (to look at it: oddetr replay {self.keep(accident)})."
        except OSError as error:
            return f"{text} (no replay file could be written: {error})."


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    if to:
        torch._foreach_copy_(to, values)  # pyright: ignore[reportPrivateUsage]


def _ids(ids: Sequence[int]) -> str:
    return listed([str(each) for each in ids], 8)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _gathered(value: Any) -> list[Any]:
    """Of all processes, which call it together."""
    if not _several():
        return [value]
    found = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found
