"""Keep a step whose loss or gradient was not finite in a file, and compute it again (`oddetr replay`).

A replay file holds student and teacher before the step, the batch, its place in the run, and what was not finite.
"""

import dataclasses
import json
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from oddetr.checkpoints.checkpoint import CheckpointInfo
from oddetr.common.durable import replacing, writing
from oddetr.common.text import listed
from oddetr.common.untrusted import read_weights_only
from oddetr.distillation.task import DistillationTask
from oddetr.losses.matching import NonFiniteCostError
from oddetr.models.families.presets import build_detector
from oddetr.structures import Batch, GroundTruth
from oddetr.training.config import Precision, TrainConfig
from oddetr.training.precision import computing_in
from oddetr.training.safety.nonfinite import NonFiniteStep, Place

FORMAT = 1
_FACTS = "oddetr replay"
"""The key of the JSON in a replay file that describes the step."""


class ReplayError(ValueError):
    """There is no replay file, or it cannot be read; the message says what was found and what to do."""


@dataclass(frozen=True)
class Trial:
    """One computation of the step.

    Attributes:
        precision: of the forward pass.
        parts: the loss and its parts, by the names of metrics.jsonl.
        images: ids of images for which NaN or infinity was predicted.
        module: the first module whose output was not finite, by its name in `DistillationTask`; None: all were.
        statistics: running statistics of batch norms that the step made not finite, by name.
        gradients: parameters whose gradient was not finite, by name, in the order of the backward pass.
        norm: of the whole gradient.
    """

    precision: Precision
    parts: dict[str, float]
    images: tuple[int, ...]
    module: str | None
    statistics: tuple[str, ...]
    gradients: tuple[str, ...]
    norm: float

    @property
    def losses(self) -> tuple[str, ...]:
        """The parts of the loss that are not finite."""
        return _not_finite(self.parts)

    def lines(self) -> list[str]:
        """Describe the trial, without the parts of the loss."""
        return [
            f"in {self.precision}:",
            f"  the first module whose output is not finite: {self.module or 'none'}",
            f"  predicted NaN or infinity for: {_listed(self.images, 8)}",
            f"  not finite in the loss: {_listed(self.losses, 12)}",
            f"  statistics of batch norms that are not finite: {_listed(self.statistics, 5)}",
            f"  gradients that are not finite, in their order: {_listed(self.gradients, 5)}",
            f"  norm of the gradient: {self.norm:.6g}",
        ]


@dataclass(frozen=True)
class ReplayReport:
    """What `replay` found.

    Attributes:
        place: the step's place in its run.
        image_ids: of its batch.
        recorded: the loss and its parts in the run.
        before: what was not finite before the step: the images, boxes, or weights by name.
        trials: the step in the run's precision, and after bf16 or fp16 in fp32, too.
        reproduced: whether in the run's precision the same was not finite: the same parts of the loss, or if the loss
            was finite, the gradient or the statistics.
    """

    place: Place
    image_ids: tuple[int, ...]
    recorded: dict[str, float]
    before: tuple[str, ...]
    trials: tuple[Trial, ...]
    reproduced: bool

    def lines(self) -> list[str]:
        """Describe the step and its trials, without the parts of the loss."""
        place = self.place
        where = f"step {place.step} (epoch {place.epoch + 1}, batch {place.batch})"
        lines = [f"{where}, images with the ids {_listed(self.image_ids, 8)}"]
        lines += [f"not finite before the step: {_listed(self.before, 5)}"]
        return lines + [line for trial in self.trials for line in trial.lines()]


def save_replay(
    folder: Path, task: DistillationTask, info: CheckpointInfo, precision: Precision, step: NonFiniteStep
) -> Path:
    """Write RUN/replay_step_N.pt, atomically; processes other than the first append their number to the name.

    Raises:
        OSError: it cannot be written; nothing of it stays.
    """
    place, batch, truth = step.place, step.batch, step.batch.truth
    process = f"_process_{place.process}" if place.process else ""
    file = folder / f"replay_step_{place.step}{process}.pt"
    facts = {
        "format": FORMAT,
        "place": asdict(place),
        "precision": precision,
        "steps": task.steps,
        "counts": truth.counts,
        "image_ids": batch.image_ids,
        "step_objects": batch.step_objects,
        "parts": step.parts,
        "gradients": step.gradients,
        "statistics": step.statistics,
        "info": info.to_json(),
    }
    tensors = {"labels": truth.labels, "boxes": truth.boxes, "original_sizes": batch.original_sizes}
    tensors |= {"images": batch.images, "padding_mask": batch.padding_mask}
    with writing(folder), replacing(file) as stream:
        torch.save({_FACTS: json.dumps(facts), "task": task.state_dict(), "batch": tensors}, stream)
    return file


def replay(file: Path | str, device: str = "cpu") -> ReplayReport:
    """Compute the step of a replay file again, with its randomness, and find what is not finite, and where first.

    Args:
        file: replay_step_N.pt, which a training leaves in its folder.
        device: where to compute: cpu, cuda. Dropout draws other numbers on another kind of device.

    Raises:
        ReplayError: there is no such file, it is damaged, or its step cannot be computed on that device.
    """
    kept = _read(Path(file))
    batch = kept.batch
    before = _not_finite_names({"images": batch.images, "boxes": batch.truth.boxes} | kept.state)
    trials: list[Trial] = []
    try:
        for precision in dict.fromkeys((kept.precision, cast(Precision, "fp32"))):
            task = kept.task().to(torch.device(device))
            trials.append(_compute(task, batch.to(device), kept.place.seed, precision))
    except Exception as error:
        raise ReplayError(
            f"The step of {file} cannot be computed on {device} ({type(error).__name__}: {error}). Try another device; "
            "if it fails there too, the file is damaged."
        ) from error
    first, losses = trials[0], _not_finite(kept.recorded)
    same = losses == first.losses if losses else not math.isfinite(first.norm) or bool(first.statistics)
    return ReplayReport(kept.place, batch.image_ids, kept.recorded, before, tuple(trials), same)


@dataclass(frozen=True)
class _Kept:
    """The content of a replay file: what the run recorded, and the `state` of the task before the step."""

    place: Place
    precision: Precision
    steps: int
    recorded: dict[str, float]
    info: CheckpointInfo
    batch: Batch
    state: dict[str, Any]

    def task(self) -> DistillationTask:
        config = TrainConfig.from_plain(self.info.configuration | {"init": None, "resume": True, "trainer": {}})
        detector = build_detector(self.info.detector, len(self.info.classes))
        task = DistillationTask(detector, self.steps, config.distillation, config.loss, config.matching, config.groups)
        task.load_state_dict(self.state)
        return task


def _read(file: Path) -> _Kept:
    """Read a replay file. Raises ReplayError if there is none, or it is damaged."""
    if not file.exists():
        raise ReplayError(f"There is no file {file}. A training that meets NaN or infinity leaves a replay_step_N.pt.")
    try:
        content = read_weights_only(file)
        facts, tensors = json.loads(content[_FACTS]), content["batch"]
        if facts["format"] != FORMAT or facts["precision"] not in get_args(Precision):
            raise ValueError("another oddetr wrote it")
        truth = GroundTruth(tensors["labels"], tensors["boxes"], tuple(facts["counts"]))
        inputs = tensors["images"], tensors["padding_mask"], truth
        return _Kept(
            Place(**{name: int(value) for name, value in facts["place"].items()}),
            facts["precision"],
            int(facts["steps"]),
            {name: float(value) for name, value in facts["parts"].items()},
            CheckpointInfo.from_json(facts["info"]),
            Batch(*inputs, tuple(facts["image_ids"]), tensors["original_sizes"], facts["step_objects"]),
            dict(content["task"]),
        )
    except Exception as error:
        why = f"{error}".rstrip(".") if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ReplayError(
            f"{file} is no replay file, or it is damaged ({why}). Give a replay_step_N.pt that `oddetr train` left in "
            "its folder."
        ) from error


def _compute(task: DistillationTask, batch: Batch, seed: int, precision: Precision) -> Trial:
    """Run one forward and backward pass of a new task, and watch the outputs of all modules and the gradients."""
    modules, gradients = list[str](), list[str]()

    def watch_output(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if _has_non_finite(output):
            modules.append(name)

    def watch_gradient(name: str, parameter: Tensor) -> None:
        if _has_non_finite(parameter.grad):
            gradients.append(name)

    learned = [(name, each) for name, each in task.learned() if each.requires_grad]
    for name, module in task.named_modules():
        module.register_forward_hook(partial(watch_output, name))
    for name, parameter in learned:
        parameter.register_post_accumulate_grad_hook(partial(watch_gradient, name))
    torch.manual_seed(seed)
    images: tuple[int, ...] = ()
    with computing_in(precision, batch.images.device):
        try:
            parts = task(batch)
        except NonFiniteCostError as error:
            parts, images = error.found, tuple(batch.image_ids[index] for index in error.images)
    parts["loss"].backward()
    norm = nn.utils.get_total_norm([each.grad for _, each in learned if each.grad is not None]).item()
    values = {name: value.item() for name, value in parts.items()}
    statistics = _not_finite_names(dict(task.student.named_buffers()))
    return Trial(precision, values, images, next(iter(modules), None), statistics, tuple(gradients), norm)


def _has_non_finite(value: Any) -> bool:
    """Whether a tensor, or one in dicts, lists and dataclasses, holds NaN or infinity."""
    if isinstance(value, Tensor):
        return not bool(value.isfinite().all())
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list | tuple) and any(map(_has_non_finite, value))


def _not_finite_names(values: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, value in values.items() if _has_non_finite(value))


def _not_finite(parts: dict[str, float]) -> tuple[str, ...]:
    return tuple(name for name, value in parts.items() if not math.isfinite(value))


def _listed(values: tuple[Any, ...], most: int) -> str:
    return listed([str(value) for value in values], most) or "nothing"
