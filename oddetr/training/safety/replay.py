"""Keep a step whose loss or gradient was not finite in a file, and compute it again (`oddetr replay`).

A replay file holds student and teacher before the step, the batch, its place in the run, and what was not finite.
"""

import json
import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oddetr.checkpoints.checkpoint import CheckpointInfo
from oddetr.common.durable import replacing, writing
from oddetr.common.text import listed
from oddetr.common.untrusted import read_weights_only
from oddetr.distillation.task import DistillationTask
from oddetr.losses.matching import NonFiniteCostError
from oddetr.models.families.build import build_detector
from oddetr.structures import Batch, GroundTruth
from oddetr.training.config import Precision, TrainConfig
from oddetr.training.precision import LIGHTNINGS, computing_in
from oddetr.training.safety.nonfinite import Findings, NonFiniteStep, Place, has_non_finite, non_finite_names

FORMAT = 1
_FACTS = "oddetr replay"
"""The key of the JSON in a replay file that describes the step."""


class ReplayError(ValueError):
    """There is no replay file, or its step cannot be computed; the message says what was found and what to do."""


@dataclass(frozen=True, kw_only=True)
class Trial(Findings):
    """One computation of the step; `gradients` are in the order of the backward pass.

    Attributes:
        precision: of the forward pass.
        module: the first module whose output was not finite, by its name in `DistillationTask`; None: all were.
    """

    precision: Precision
    module: str | None

    def __str__(self) -> str:
        first = f"; the first module whose output is not finite: {self.module}" if self.module else ""
        return f"in {self.precision}: {super().__str__()}{first}"


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
        """Describe the step and its trials, a line each."""
        images = listed([str(each) for each in self.image_ids], 8)
        before = f"not finite before the step: {listed(self.before, 5) or 'nothing'}"
        return [f"{self.place}, images with the ids {images}", before, *map(str, self.trials)]


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
        "parts": step.found.parts,
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
    file = Path(file)
    if not file.exists():
        raise ReplayError(f"There is no file {file}. A training that meets NaN or infinity leaves a replay_step_N.pt.")
    try:
        return _replay(read_weights_only(file), torch.device(device))
    except Exception as error:
        why = f"{error}".rstrip(".") if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ReplayError(
            f"The step of {file} cannot be computed on {device}: {why}. Give a replay_step_N.pt that `oddetr train` "
            "left in its folder; if this is one, try another device, or it is damaged."
        ) from error


def _replay(content: dict[str, Any], device: torch.device) -> ReplayReport:
    facts, tensors = json.loads(content[_FACTS]), content["batch"]
    if facts["format"] != FORMAT or facts["precision"] not in LIGHTNINGS:
        raise ValueError("another oddetr wrote it")
    place = Place(**{name: int(value) for name, value in facts["place"].items()})
    truth = GroundTruth(tensors["labels"], tensors["boxes"], tuple(facts["counts"]))
    inputs = tensors["images"], tensors["padding_mask"], truth
    batch = Batch(*inputs, tuple(facts["image_ids"]), tensors["original_sizes"], facts["step_objects"])
    recorded = Findings(parts={name: float(value) for name, value in facts["parts"].items()})
    before = non_finite_names({"images": batch.images, "boxes": truth.boxes} | content["task"])
    trials: list[Trial] = []
    for precision in dict.fromkeys((facts["precision"], "fp32")):
        task = _task(facts, content["task"]).to(device)
        trials.append(_compute(task, batch.to(device), place.seed, precision))
    first = trials[0]
    same = recorded.losses == first.losses and bool(first.losses or first.statistics or not math.isfinite(first.norm))
    return ReplayReport(place, batch.image_ids, recorded.parts, before, tuple(trials), same)


def _task(facts: dict[str, Any], state: dict[str, Any]) -> DistillationTask:
    """Build the task as it was before the step."""
    info = CheckpointInfo.from_json(facts["info"])
    config = TrainConfig.from_plain(info.configuration | {"init": None, "resume": True, "trainer": {}})
    detector = build_detector(info.detector, len(info.classes))
    config.set_up(detector)
    parts = config.distillation, config.loss, config.matching, config.groups
    task = DistillationTask(detector, int(facts["steps"]), *parts)
    task.load_state_dict(state)
    return task


def _compute(task: DistillationTask, batch: Batch, seed: int, precision: Precision) -> Trial:
    """Run one forward and backward pass of a new task, and watch the outputs of all modules and the gradients."""
    modules, gradients = list[str](), list[str]()

    def watch_output(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if has_non_finite(output):
            modules.append(name)

    def watch_gradient(name: str, parameter: Tensor) -> None:
        if has_non_finite(parameter.grad):
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
    return Trial(
        precision=precision,
        module=next(iter(modules), None),
        parts={name: value.item() for name, value in parts.items()},
        images=images,
        statistics=non_finite_names(dict(task.student.named_buffers())),
        gradients=tuple(gradients),
        norm=nn.utils.get_total_norm([each.grad for _, each in learned if each.grad is not None]).item(),
    )
