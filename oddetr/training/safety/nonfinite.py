"""Find a loss or gradient that is not finite in its own step, and skip that step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from oddetr.common.text import listed
from oddetr.distillation.task import DistillationTask
from oddetr.distillation.teacher import NonFiniteStudentError, all_finite, all_values
from oddetr.losses.matching import NonFiniteCostError
from oddetr.structures import Batch
from oddetr.training.config import NonFinite
from oddetr.training.processes import connected, gathered

MOST_IN_A_ROW = 20
"""Skipped steps in a row after which the training stops whatever the policy. One odd image spoils one step; twenty
in a row mean that the detector has diverged."""


@dataclass(frozen=True)
class Place:
    """The place of a batch in a run: optimizer steps done before; epoch, batch of the epoch, and process, from 0; and
    the seed of the forward pass."""

    step: int
    epoch: int
    batch: int
    process: int
    seed: int

    def __str__(self) -> str:
        process = f" of process {self.process}" if self.process else ""
        return f"Step {self.step} (epoch {self.epoch + 1}, batch {self.batch}{process})"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What of a step is not finite.

    Attributes:
        parts: the loss and its parts, by the names of metrics.jsonl.
        images: ids of images for which NaN or infinity was predicted.
        statistics: running statistics of batch norms, by name.
        gradients: parameters whose gradient is not finite, by name; empty in a run if the loss is not finite.
        norm: of the whole gradient.
    """

    parts: dict[str, float]
    images: tuple[int, ...] = ()
    statistics: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    norm: float = math.nan

    @property
    def losses(self) -> tuple[str, ...]:
        """The parts of the loss that are not finite; the loss itself if all its parts are finite."""
        bad = tuple(name for name, value in self.parts.items() if not math.isfinite(value))
        return tuple(name for name in bad if name != "loss") or bad

    def __str__(self) -> str:
        found = [f"the detector predicts NaN or infinity for {_ids(self.images)}"] if self.images else []
        if self.losses:
            found += [f"the loss is not finite: {listed([f'{name} ({self.parts[name]})' for name in self.losses])}"]
        elif self.statistics:
            found += [f"the statistics of batch norms are not finite: {listed(self.statistics)}"]
        elif not math.isfinite(self.norm):
            which = listed(self.gradients) or "only its norm; each value is finite"
            found += [f"the loss is finite, but its gradient is not: {which}"]
        return "; ".join(found) or "all is finite"


@dataclass(frozen=True)
class NonFiniteStep:
    """A step that is not finite: the batch that made it so, its place in the run, and what was found."""

    batch: Batch
    place: Place
    found: Findings


@dataclass
class _Part:
    """A batch of the step: whether loss and statistics are `finite`, and the gradient's `norm` so far (on device)."""

    batch: Batch
    place: Place
    values: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    images: tuple[int, ...] = ()
    finite: Tensor | None = None
    norm: Tensor | None = None


class StepWatch:
    """Check loss and gradient of each step before the optimizer moves the student, and the student before the teacher
    averages it.

    The device is read once, at the end of the step. A loss that is not finite becomes NaN, so that the reduced gradient
    is NaN in all processes, and all of them decide alike. If the gradient's norm is not finite, the fused optimizer
    skips its step, as it does for gradient scaling, and the statistics of batch norms are restored. In fp16 the
    gradient scaler causes and cures gradients that are not finite, as long as its scale is 1 or more.

    Attributes:
        skipped: skipped steps of the run; in_a_row: those since the last good step.
        step_skipped: whether the last step was skipped.

    Args:
        policy: of `TrainConfig.non_finite`.
        keep: writes a replay file.
        files: looks up the files of image ids; may return none.
    """

    def __init__(
        self,
        task: DistillationTask,
        policy: NonFinite = "stop",
        keep: Callable[[NonFiniteStep], Path] | None = None,
        files: Callable[[Sequence[int]], list[str]] = lambda ids: [],
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.task, self.policy, self.keep, self.files, self.say = task, policy, keep, files, say
        self.skipped, self.in_a_row, self.step_skipped = 0, 0, False
        self._parts: list[_Part] = []
        self._norm: Tensor | None = None

    def start(self) -> None:
        """Call once before the first step, when the task is on its device."""
        self._learned = [parameter for _, parameter in self.task.learned()]
        self._student = [value for value in all_values(self.task.student) if value.is_floating_point()]
        self._buffers = [*self.task.student.buffers()]
        self._statistics = [buffer for buffer in self._buffers if buffer.is_floating_point()]
        self._before = [buffer.clone() for buffer in self._buffers]

    def start_batch(self, batch: Batch, place: Place) -> None:
        """Call before each batch of a step; saves the statistics of batch norms before the first."""
        if not self._parts:
            _copy(self._before, self._buffers)
        self._parts.append(_Part(batch, place))

    def loss(self, values: dict[str, Tensor], error: NonFiniteCostError | None = None) -> Float[Tensor, ""]:
        """Return the batch's loss, or NaN if anything of it is not finite; `error` is what the matching raised."""
        part = self._parts[-1]
        part.values = {name: value.detach() for name, value in values.items()}
        part.images = tuple(part.batch.image_ids[index] for index in error.images) if error else ()
        part.finite = part.values["loss"].isfinite()
        if self._statistics:
            part.finite = part.finite & all_finite(self._statistics)
        return values["loss"] * torch.where(part.finite, 1.0, torch.nan)

    def end_batch(self) -> None:
        """Call after the backward pass of each of several accumulated batches."""
        self._parts[-1].norm = nn.utils.get_total_norm(self._gradients())

    def clip_gradient(self, optimizer: Optimizer, clip: float, scaled: bool) -> None:
        """Clip the gradient to the norm `clip` (0: not at all), and make the optimizer skip a step that is not finite.

        In fp16 (`scaled`) the gradient scaler makes it skip."""
        self._norm = norm = nn.utils.get_total_norm(self._gradients())
        finite = norm.isfinite()
        if clip:
            # A gradient that is not finite is left as it is, to be examined.
            nn.utils.clip_grads_with_norm_(self._learned, clip, torch.where(finite, norm, 0.0))
        if not scaled:
            setattr(optimizer, "found_inf", (~finite).float())  # noqa: B010

    def end_step(self, scaler: torch.amp.GradScaler | None = None) -> bool:
        """Return whether the optimizer moved the student; call after its step. Waits for the device.

        A scale of the `scaler` of fp16 that was too large is usual: the student is not moved, the scale is halved, and
        nothing is counted.

        Raises:
            FloatingPointError: the step was not finite, and the policy is to stop, or too many were not.
            NonFiniteStudentError: the student was moved, and is not finite.
        """
        assert self._norm is not None
        finite, sound = torch.stack([self._norm.isfinite(), all_finite(self._student)]).tolist()
        parts, self._parts = self._parts, []
        usual = not finite and scaler is not None and scaler.get_scale() >= 1
        usual = usual and all(gathered(all(bool(part.finite) for part in parts)))
        self.step_skipped = not finite and not usual
        if self.step_skipped:
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            self._report(*self._examine(parts))
            return False
        self.in_a_row = 0 if finite else self.in_a_row
        if not sound:
            raise NonFiniteStudentError(self.task.student)
        return finite

    def state(self) -> dict[str, int]:
        """The counts, for a checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load(self, state: dict[str, int]) -> None:
        """Restore the counts of a checkpoint."""
        self.skipped, self.in_a_row = state.get("skipped", 0), state.get("in_a_row", 0)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._learned if parameter.grad is not None]

    def _examine(self, parts: Sequence[_Part]) -> tuple[NonFiniteStep, bool]:
        """Restore the statistics, and return the first bad batch of the step, and whether this process has found it."""
        bad = next((part for part in parts if not part.finite), None)
        early = next((part for part in parts if part.norm is not None and not part.norm.isfinite()), None)
        part = bad or early or parts[-1]
        buffers = dict(self.task.student.named_buffers())
        gradients = {} if bad else {name: each.grad for name, each in self.task.learned() if each.grad is not None}
        found = Findings(
            parts={name: value.item() for name, value in part.values.items()},
            images=part.images,
            statistics=non_finite_names({name: each for name, each in buffers.items() if each.is_floating_point()}),
            gradients=non_finite_names(gradients),
        )
        _copy(self._buffers, self._before)
        here = bad is not None or part is not parts[-1] or not connected()
        return NonFiniteStep(part.batch, part.place, found), here

    def _report(self, step: NonFiniteStep, here: bool) -> None:
        """Report the step, the same in all processes, and raise if the training must stop."""
        stops = self.policy == "stop" or self.in_a_row >= MOST_IN_A_ROW
        keep = stops or self.skipped == 1
        causes = [text for text in gathered(self._described(step, keep) if here else "") if text]
        found = " | ".join(causes) or self._described(step, keep)
        if self.policy == "stop":
            raise FloatingPointError(
                f"{found} Neither student nor teacher has moved. Lower --optimizer.learning-rate, train in fp32, or "
                "skip such steps: --resume --non-finite skip."
            )
        if stops:
            raise FloatingPointError(
                f"{found} It is the {self.in_a_row}th skipped step in a row, {self.skipped} in all: the training has "
                "diverged. Start again with a lower --optimizer.learning-rate, or in fp32."
            )
        if self.skipped == 1:
            self.say(f"skipped: {found} Neither student nor teacher has moved. Further such steps are only counted.")

    def _described(self, step: NonFiniteStep, keep: bool) -> str:
        ids = step.found.images or step.batch.image_ids
        files = self.files(ids)
        text = f"{step.place}, images with the ids {_ids(ids)}{f' ({listed(files)})' if files else ''}: {step.found}"
        if not (keep and self.keep):
            return f"{text}."
        try:
            return f"{text} (to compute it again: oddetr replay {self.keep(step)})."
        except OSError as error:
            return f"{text} (no replay file could be written: {error})."


def has_non_finite(value: Any) -> bool:
    """Whether a tensor, or one in dicts, lists and dataclasses, holds NaN or infinity."""
    if isinstance(value, Tensor):
        return not bool(value.isfinite().all())
    value = vars(value) if is_dataclass(value) else value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(has_non_finite, parts))


def non_finite_names(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the values that hold NaN or infinity."""
    return tuple(name for name, value in values.items() if has_non_finite(value))


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    if to:
        torch._foreach_copy_(to, values)  # pyright: ignore[reportPrivateUsage]


def _ids(ids: Sequence[int]) -> str:
    return listed([str(each) for each in ids], 8)
