"""`replay`: a step whose loss or gradient was not finite, kept in a file, is computed again.

A replay file holds the student and the teacher of before the step, the batch, where it was in the run, and what was
found; it is read as weights only.
"""

import dataclasses
import json
import math
import reprlib
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from oddetr.checkpoints.checkpoint import CheckpointInfo
from oddetr.common.durable import replacing, writing
from oddetr.common.text import listed
from oddetr.common.untrusted import is_number, read_count, read_weights_only
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
    """The step computed once.

    Attributes:
        precision: of the forward pass.
        parts: the loss and its parts, by the names of metrics.jsonl.
        images: ids of images for which NaN or infinity was predicted.
        module: the first module whose output was not finite, by its name in `DistillationTask`; None: all were.
        statistics: statistics of batch norms that the step made not finite, by name.
        gradients: parameters whose gradient was not finite, by name, in the order in which they were computed.
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


@dataclass(frozen=True)
class ReplayReport:
    """What `replay` found.

    Attributes:
        place: where the step was in its run; image_ids: its batch's.
        recorded: the loss and its parts in the run.
        before: what was not finite before the step began: the images, boxes, or weights by name.
        trials: the step in the run's precision, and where that is bf16 or fp16 in fp32, too.
        reproduced: whether in the run's precision the same was not finite: the same parts of the loss, or where the
            loss was finite, the gradient or the statistics.
    """

    place: Place
    image_ids: tuple[int, ...]
    recorded: dict[str, float]
    before: tuple[str, ...]
    trials: tuple[Trial, ...]
    reproduced: bool

    def lines(self) -> list[str]:
        """In words, all but the loss's parts."""
        place, nothing = self.place, "nothing"
        ids = listed([str(each) for each in self.image_ids], 8)
        told = [f"step {place.step} (epoch {place.epoch + 1}, batch {place.batch}), images with the ids {ids}"]
        told += [f"not finite before the step: {listed([*self.before]) or nothing}"]
        for trial in self.trials:
            told += [f"in {trial.precision}:"]
            told += [f"  the first module whose output is not finite: {trial.module or 'none'}"]
            told += [f"  predicted NaN or infinity for: {listed([str(i) for i in trial.images], 8) or nothing}"]
            told += [f"  not finite in the loss: {listed([*trial.losses], 12) or nothing}"]
            if trial.statistics:
                told += [f"  statistics of batch norms that are not finite: {listed([*trial.statistics])}"]
            told += [f"  gradients that are not finite, in their order: {listed([*trial.gradients], 5) or nothing}"]
            told += [f"  norm of the gradient: {trial.norm:.6g}"]
        return told


def save_replay(
    folder: Path, task: DistillationTask, info: CheckpointInfo, precision: Precision, accident: Accident
) -> Path:
    """Writes RUN/replay_step_N.pt aside and puts it in its place; of processes but the first, their number follows.

    Raises:
        OSError: it cannot be written; what had been written of it is removed.
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
    """Computes the step of a replay file again, with its randomness, and looks for what is not finite, and where first.

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
    names = [name for name, value in _named(task) if not value.isfinite().all()]
    inputs = {"images": batch.images, "boxes": batch.truth.boxes}
    before = tuple(name for name, value in inputs.items() if not value.isfinite().all()) + tuple(names)
    trials: list[Trial] = []
    try:
        for each in dict.fromkeys((kept.precision, cast(Precision, "fp32"))):
            task.load_state_dict(kept.state)
            trials.append(_computed(task.to(where), batch.to(where), place.seed, each))
    except Exception as error:
        raise ReplayError(
            f"The step of {file} cannot be computed on {device} ({type(error).__name__}: {error}). Try another device; "
            "if it fails there too, the file is not what `oddetr train` left."
        ) from error
    first, losses = trials[0], _not_finite(kept.recorded)
    same = losses == first.losses if losses else not math.isfinite(first.norm) or bool(first.statistics)
    return ReplayReport(place, batch.image_ids, kept.recorded, before, tuple(trials), same)


def _device(name: str) -> torch.device:
    """Where something can be computed.

    Raises:
        ValueError: nothing can.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).sum().item()
    except Exception as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"device is {name!r}, and nothing can be computed there ({why}). Take cpu.") from error
    return device


@dataclass(frozen=True)
class _Kept:
    """What a replay file holds: the step's task of before with its `state`, its batch, and what the run told."""

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
        info = CheckpointInfo.from_json(told["info"])
        recorded = {name: _number(value) for name, value in told["parts"].items()}
        batch, state = _batch(told, content["batch"], len(info.classes)), content["task"]
        task = _task(info, read_count(told["steps"]), state)
        return _Kept(_place(told["place"]), told["precision"], recorded, batch, task, state)
    except Exception as error:
        why = f"{error}".rstrip(".") if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ReplayError(
            f"{file} is no replay file, or it is damaged ({why}). Give a replay_step_N.pt that `oddetr train` left in "
            "its folder."
        ) from error


def _number(value: Any) -> float:
    """One that may be NaN or infinite.

    Raises:
        ValueError: it is none.
    """
    if not is_number(value):
        raise ValueError(f"{reprlib.repr(value)} is no number")
    return float(value)


def _place(told: dict[str, Any]) -> Place:
    """Raises TypeError or ValueError where that is not told."""
    seed = told.pop("seed")
    if type(seed) is not int or not 0 <= seed < 2**64:
        raise ValueError(f"seed is {reprlib.repr(seed)}")
    return Place(**{name: read_count(value) for name, value in told.items()}, seed=seed)


def _batch(told: dict[str, Any], tensors: dict[str, Any], classes: int) -> Batch:
    """The step's batch.

    Raises:
        ValueError: something of it is of another kind, shape or range than a batch's.
    """
    images = _tensor(tensors, "images", torch.float32, None, 3, None, None)
    labels = _tensor(tensors, "labels", torch.int64, len(images), None)
    counts = tuple(read_count(count) for count in told["counts"])
    ids, wholes = tuple(told["image_ids"]), (told["step_objects"], told["step_images"])
    if not len(images) == len(counts) == len(ids) or any(type(each) is not int for each in ids):
        raise ValueError(f"{len(images)} images have {len(counts)} counts and {len(ids)} ids, or an id is no number")
    if any(whole is not None and read_count(whole) < least for whole, least in zip(wholes, (0, 1), strict=True)):
        raise ValueError("the step has no images")
    real = torch.arange(labels.shape[1]) < torch.tensor(counts)[:, None]
    if max(counts) > labels.shape[1] or not torch.where(real, (labels >= 0) & (labels < classes), labels == -1).all():
        raise ValueError(f"labels are not, as counted, from 0 to {classes - 1}, and beyond -1")
    truth = GroundTruth(labels, _tensor(tensors, "boxes", torch.float32, *labels.shape, 4), counts)
    mask = _tensor(tensors, "padding_mask", torch.bool, len(images), *images.shape[2:])
    sizes = _tensor(tensors, "original_sizes", torch.int64, len(images), 2)
    return Batch(images, mask, truth, ids, sizes, *wholes)


def _tensor(tensors: dict[str, Any], name: str, kind: torch.dtype, *shape: int | None) -> Tensor:
    """One of the batch's tensors; None in `shape`: any size from 1 on.

    Raises:
        ValueError: it is of another kind or shape.
    """
    value = tensors[name]
    found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    if not isinstance(value, Tensor) or value.dtype != kind or value.ndim != len(shape):
        raise ValueError(f"{name} is {found}, where {kind} with {len(shape)} axes is needed")
    if any(size != (wanted or max(size, 1)) for size, wanted in zip(value.shape, shape, strict=True)):
        raise ValueError(f"{name} is {found}, where the shape {shape} is needed")
    return value


def _task(info: CheckpointInfo, steps: int, state: dict[str, Any]) -> DistillationTask:
    """The task of before the step.

    Raises:
        ValueError: it would have more weights than are there. And whatever else comes of a state that does not fit it.
    """
    config = TrainConfig.from_plain(info.configuration | {"init": None, "resume": True, "trainer": {}})
    least = count_values(info.detector, len(info.classes))
    held = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    if least > held:
        raise ValueError(f"it describes a detector of {least:,} parameters or more, and holds {held:,} numbers")
    detector = build_detector(info.detector, len(info.classes))
    task = DistillationTask(detector, steps, config.distillation, config.loss, config.matching, config.groups)
    task.load_state_dict(state)
    return task


def _computed(task: DistillationTask, batch: Batch, seed: int, precision: Precision) -> Trial:
    """One forward and backward pass."""
    modules, gradients = list[str](), list[str]()
    hooks = [each.register_forward_hook(partial(_look_at_output, modules, name)) for name, each in task.named_modules()]
    learned = [(name, each) for name, each in task.learned() if each.requires_grad]
    hooks += [
        each.register_post_accumulate_grad_hook(partial(_look_at_gradient, gradients, name)) for name, each in learned
    ]
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
    buffers = dict(task.student.named_buffers())
    statistics = [name for name, each in buffers.items() if each.is_floating_point() and not each.isfinite().all()]
    return Trial(precision, parts, images, next(iter(modules), None), tuple(statistics), tuple(gradients), norm)


def _look_at_output(bad: list[str], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    if not all(bool(value.isfinite().all()) for value in _tensors(output)):
        bad.append(name)


def _look_at_gradient(bad: list[str], name: str, parameter: Tensor) -> None:
    assert parameter.grad is not None
    if not parameter.grad.isfinite().all():
        bad.append(name)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All floating-point tensors in dicts, lists and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif dataclasses.is_dataclass(value):
        for part in dataclasses.fields(value):
            yield from _tensors(getattr(value, part.name))


def _named(task: DistillationTask) -> Iterator[tuple[str, Tensor]]:
    for name, value in (*task.named_parameters(), *task.named_buffers()):
        if value.is_floating_point():
            yield name, value


def _not_finite(parts: dict[str, float]) -> tuple[str, ...]:
    return tuple(name for name, value in parts.items() if not math.isfinite(value))
