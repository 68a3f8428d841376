"""Keep a step whose loss or gradient was not finite in a file, and compute it again (`oddetr replay`).

A replay file holds student and teacher before the step, the batch, its place in the run, and what was not finite. It is
read as weights only.
"""

import dataclasses
import json
import math
import reprlib
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from oddetr.checkpoints.checkpoint import CheckpointInfo
from oddetr.common.durable import replacing, writing
from oddetr.common.text import listed
from oddetr.common.untrusted import read_count, read_weights_only
from oddetr.distillation.task import DistillationTask
from oddetr.losses.matching import NonFiniteCostError
from oddetr.models.families.presets import build_detector, count_values
from oddetr.structures import Batch, GroundTruth
from oddetr.training.config import Precision, TrainConfig
from oddetr.training.precision import computing_in
from oddetr.training.safety.nonfinite import Accident, Place

FORMAT = 1


class ReplayError(ValueError):
    """There is no replay file, or it cannot be read; the message says what was found and what to do."""


@dataclass(frozen=True)
class Trial:
    """The step, computed once.

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
        told = [f"in {self.precision}:"]
        told += [f"  the first module whose output is not finite: {self.module or 'none'}"]
        told += [f"  predicted NaN or infinity for: {_listed(self.images, 8)}"]
        told += [f"  not finite in the loss: {_listed(self.losses, 12)}"]
        if self.statistics:
            told += [f"  statistics of batch norms that are not finite: {_listed(self.statistics, 5)}"]
        told += [f"  gradients that are not finite, in their order: {_listed(self.gradients, 5)}"]
        return [*told, f"  norm of the gradient: {self.norm:.6g}"]


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
        told = [f"{where}, images with the ids {_listed(self.image_ids, 8)}"]
        told += [f"not finite before the step: {_listed(self.before, 5)}"]
        return told + [line for trial in self.trials for line in trial.lines()]


def save_replay(
    folder: Path, task: DistillationTask, info: CheckpointInfo, precision: Precision, accident: Accident
) -> Path:
    """Write RUN/replay_step_N.pt, atomically; processes other than the first append their number to the name.

    Raises:
        OSError: it cannot be written; nothing of it stays.
    """
    place, batch, truth = accident.place, accident.batch, accident.batch.truth
    process = f"_process_{place.process}" if place.process else ""
    file = folder / f"replay_step_{place.step}{process}.pt"
    tensors = {"labels": truth.labels, "boxes": truth.boxes, "original_sizes": batch.original_sizes}
    tensors |= {"images": batch.images, "padding_mask": batch.padding_mask}
    told = {
        "format": FORMAT,
        "place": asdict(place),
        "precision": precision,
        "steps": task.steps,
        "counts": truth.counts,
        "image_ids": batch.image_ids,
        "step_objects": batch.step_objects,
        "step_images": batch.step_images,
        "parts": accident.parts,
        "gradients": accident.gradients,
        "statistics": accident.statistics,
        "info": info.to_json(),
    }
    with writing(folder), replacing(file) as stream:
        torch.save({"oddetr replay": json.dumps(told), "task": task.state_dict(), "batch": tensors}, stream)
    return file


def replay(file: Path | str, device: str = "cpu") -> ReplayReport:
    """Compute the step of a replay file again, with its randomness, and find what is not finite, and where first.

    Args:
        file: replay_step_N.pt, which a training leaves in its folder.
        device: where to compute: cpu, cuda. Dropout draws other numbers on another kind of device.

    Raises:
        ReplayError: there is no such file, it cannot be read, or its step cannot be computed there.
        ValueError: there is no such device.
    """
    where = _device(device)
    kept = _read(Path(file))
    task, batch, place = kept.task, kept.batch, kept.place
    inputs = {"images": batch.images, "boxes": batch.truth.boxes, **dict(task.named_parameters())}
    before = _not_finite_names(inputs | dict(task.named_buffers()))
    trials: list[Trial] = []
    try:
        for precision in dict.fromkeys((kept.precision, cast(Precision, "fp32"))):
            task.load_state_dict(kept.state)
            trials.append(_compute(task.to(where), batch.to(where), place.seed, precision))
    except Exception as error:
        raise ReplayError(
            f"The step of {file} cannot be computed on {device} ({type(error).__name__}: {error}). Try another device; "
            "if it fails there too, the file is not what `oddetr train` left."
        ) from error
    first, losses = trials[0], _not_finite(kept.recorded)
    same = losses == first.losses if losses else not math.isfinite(first.norm) or bool(first.statistics)
    return ReplayReport(place, batch.image_ids, kept.recorded, before, tuple(trials), same)


def _device(name: str) -> torch.device:
    """Raises ValueError if nothing can be computed there."""
    try:
        device = torch.device(name)
        torch.ones(1, device=device).sum().item()
    except Exception as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"device is {name!r}, and nothing can be computed there ({why}). Take cpu.") from error
    return device


@dataclass(frozen=True)
class _Kept:
    """The content of a replay file: the task as it was before the step, its `state`, and what the run recorded."""

    place: Place
    precision: Precision
    recorded: dict[str, float]
    batch: Batch
    task: DistillationTask
    state: dict[str, Any]


def _read(file: Path) -> _Kept:
    if not file.exists():
        raise ReplayError(f"There is no file {file}. A training that meets NaN or infinity leaves a replay_step_N.pt.")
    try:
        content = read_weights_only(file)
        with zipfile.ZipFile(file) as archive:  # torch does not look at checksums.
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} in it is wrong")
        told = json.loads(content["oddetr replay"])
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']}, not {FORMAT}: another oddetr wrote it")
        if told["precision"] not in get_args(Precision):
            raise ValueError(f"precision is {reprlib.repr(told['precision'])}")
        place, seed = dict(told["place"]), told["place"]["seed"]
        if type(seed) is not int or not 0 <= seed < 2**64:
            raise ValueError(f"seed is {reprlib.repr(seed)}")
        place = Place(**{name: read_count(value) for name, value in place.items() if name != "seed"}, seed=seed)
        info = CheckpointInfo.from_json(told["info"])
        recorded = {name: float(value) for name, value in told["parts"].items()}
        batch, state = _batch(told, content["batch"], len(info.classes)), content["task"]
        return _Kept(place, told["precision"], recorded, batch, _task(info, read_count(told["steps"]), state), state)
    except Exception as error:
        why = f"{error}".rstrip(".") if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ReplayError(
            f"{file} is no replay file, or it is damaged ({why}). Give a replay_step_N.pt that `oddetr train` left in "
            "its folder."
        ) from error


def _batch(told: dict[str, Any], tensors: dict[str, Tensor], classes: int) -> Batch:
    """Make the step's batch; raises an error of any kind if the file does not hold a sound one."""
    images, objects = tensors["images"], tensors["labels"].shape[1]
    count, _, *size = images.shape
    expected = {
        "images": (torch.float32, (count, 3, *size)),
        "labels": (torch.int64, (count, objects)),
        "boxes": (torch.float32, (count, objects, 4)),
        "padding_mask": (torch.bool, (count, *size)),
        "original_sizes": (torch.int64, (count, 2)),
    }
    for name, (kind, shape) in expected.items():
        value = tensors[name]
        if value.dtype != kind or value.shape != shape:
            raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, where {kind} {shape} is needed")
    counts, ids = tuple(map(read_count, told["counts"])), tuple(told["image_ids"])
    if not 0 < count == len(counts) == len(ids) or any(type(each) is not int for each in ids):
        raise ValueError(f"{count} images have {len(counts)} counts and {len(ids)} ids, or an id is no number")
    labels = tensors["labels"]
    real = torch.arange(objects) < torch.tensor(counts)[:, None]
    if max(counts) > objects or not torch.where(real, (labels >= 0) & (labels < classes), labels == -1).all():
        raise ValueError(f"labels are not, as counted, from 0 to {classes - 1}, and beyond -1")
    step_objects, step_images = (told[name] and read_count(told[name]) for name in ("step_objects", "step_images"))
    if step_images == 0:
        raise ValueError("the step has no images")
    truth = GroundTruth(labels, tensors["boxes"], counts)
    return Batch(images, tensors["padding_mask"], truth, ids, tensors["original_sizes"], step_objects, step_images)


def _task(info: CheckpointInfo, steps: int, state: dict[str, Any]) -> DistillationTask:
    """Make the task as it was before the step; raises ValueError if it would have more weights than `state` holds."""
    config = TrainConfig.from_plain(info.configuration | {"init": None, "resume": True, "trainer": {}})
    least = count_values(info.detector, len(info.classes))
    held = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    if least > held:
        raise ValueError(f"it describes a detector of {least:,} parameters or more, and holds {held:,} numbers")
    detector = build_detector(info.detector, len(info.classes))
    task = DistillationTask(detector, steps, config.distillation, config.loss, config.matching, config.groups)
    task.load_state_dict(state)
    return task


def _compute(task: DistillationTask, batch: Batch, seed: int, precision: Precision) -> Trial:
    """Run one forward and backward pass, and watch the outputs of all modules and the gradients."""
    modules, gradients = list[str](), list[str]()

    def watch_output(name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(
            lambda _, inputs, output: modules.append(name) if _has_non_finite(output) else None
        )

    def watch_gradient(name: str, parameter: nn.Parameter) -> Any:
        return parameter.register_post_accumulate_grad_hook(
            lambda each: gradients.append(name) if _has_non_finite(each.grad) else None
        )

    learned = [(name, each) for name, each in task.learned() if each.requires_grad]
    hooks = [watch_output(name, module) for name, module in task.named_modules()]
    hooks += [watch_gradient(name, parameter) for name, parameter in learned]
    task.zero_grad()
    torch.manual_seed(seed)
    images: tuple[int, ...] = ()
    try:
        with computing_in(precision, batch.images.device):
            try:
                found = task(batch)
            except NonFiniteCostError as error:
                found, images = error.found, tuple(batch.image_ids[index] for index in error.images)
        found["loss"].backward()
    finally:
        for hook in hooks:
            hook.remove()
    norm = nn.utils.get_total_norm([each.grad for _, each in learned if each.grad is not None]).item()
    parts = {name: value.item() for name, value in found.items()}
    statistics = _not_finite_names(dict(task.student.named_buffers()))
    return Trial(precision, parts, images, next(iter(modules), None), statistics, tuple(gradients), norm)


def _has_non_finite(value: Any) -> bool:
    """Whether a tensor, or one in dicts, lists and dataclasses, holds NaN or infinity."""
    if isinstance(value, Tensor):
        return not bool(value.isfinite().all())
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list | tuple) and any(map(_has_non_finite, value))


def _not_finite_names(values: dict[str, Tensor]) -> tuple[str, ...]:
    return tuple(name for name, value in values.items() if _has_non_finite(value))


def _not_finite(parts: dict[str, float]) -> tuple[str, ...]:
    return tuple(name for name, value in parts.items() if not math.isfinite(value))


def _listed(values: tuple[Any, ...], most: int) -> str:
    return listed([str(value) for value in values], most) or "nothing"
