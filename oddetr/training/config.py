"""The configuration of a training run: every field is an argument of `oddetr train` and of `oddetr.train`."""

import dataclasses
import difflib
import inspect
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from oddetr.checkpoints.checkpoint import find_checkpoint, read_info
from oddetr.common.nested import flat
from oddetr.common.text import unknown_option
from oddetr.common.untrusted import refuse_imports
from oddetr.data.sources import DIGITS, DigitsConfig
from oddetr.data.transforms import LEAST_SIDE, MOST_SIDE, AugmentConfig
from oddetr.distillation.config import DistillationConfig
from oddetr.distillation.extra import GroupsConfig
from oddetr.losses.detection import LossConfig
from oddetr.losses.matching import MatchingWeights
from oddetr.models.families.presets import PRESETS, read_config
from oddetr.models.interface import DetectorSpec
from oddetr.models.transformers.config import HuggingFaceConfig
from oddetr.training.upgrades import upgraded

Precision = Literal["fp32", "bf16", "fp16"]
NonFinite = Literal["stop", "skip"]
LoggerName = Literal["tensorboard", "mlflow", "wandb"]
DEFAULT_MODEL = "deformable_detr_refine_tiny"
Value = TypeVar("Value")
HUGGING_FACE = "hf:"
"""Prefix of the name of a model of transformers."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate over the run; times are fractions of the run.

    Attributes:
        learning_rate: of all but the following (Deformable-DETR: 2e-4); default: see `oddetr.training.plan.choice`.
        backbone_factor: the backbone's rate over the others' (Deformable-DETR: 0.1); default: likewise.
        places_factor: likewise of what moves the places that queries read (Deformable-DETR: 0.1; 1 in the official code
            of DAB-Deformable-DETR and DINO).
        weight_decay: AdamW's (Deformable-DETR: 1e-4).
        clip: largest norm of the whole gradient (Deformable-DETR: 0.1); 0 does not clip.
        schedule: `step` divides the rate by 10 at `drop_at`; `cosine` lets it fall to 0.
        drop_at: when `step` drops; Deformable-DETR's 40 of 50 epochs.
        warmup: the rate rises linearly from 0 in this part of the run, which protects pretrained weights from the
            first, random gradients and costs next to nothing.

    Raises:
        ValueError: a value that is out of range.
    """

    learning_rate: float | None = None
    backbone_factor: float | None = None
    places_factor: float = 0.1
    weight_decay: float = 1e-4
    clip: float = 0.1
    schedule: Literal["step", "cosine"] = "step"
    drop_at: float = 0.8
    warmup: float = 0.01

    def __post_init__(self) -> None:
        for name in ("backbone_factor", "places_factor", "weight_decay", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"optimizer.{name} is {value}; it must be at least 0.")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"optimizer.learning_rate is {self.learning_rate}; it must be above 0.")
        if self.schedule not in ("step", "cosine"):
            raise ValueError(f"optimizer.schedule is {self.schedule!r}; it must be step or cosine.")
        for name in ("drop_at", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}; it is a fraction of the run, in [0, 1].")

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of `learning_rate` in step `step` (from 0) of `steps`."""
        progress = step / steps
        rise = min(1.0, (step + 1) / max(1.0, self.warmup * steps))
        if self.schedule == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return rise * (0.1 if progress >= self.drop_at else 1.0)


_PATHS = ("out", "init", "backbone_weights")
_FREE = ("detector", "trainer")
"""Fields of any content, which is checked elsewhere."""
_LEAST = {
    "epochs": 1,
    "image_size": LEAST_SIDE,
    "batch_size": 1,
    "accumulate": 1,
    "validate_every": 1,
    "seed": 0,
    "workers": 0,
}
_CONTRADICTED = {
    "max_epochs": "--epochs",
    "accumulate_grad_batches": "--accumulate",
    "gradient_clip_val": "--optimizer.clip",
    "check_val_every_n_epoch": "--validate-every",
    "precision": "--precision",
    "logger": "--loggers",
    "default_root_dir": "--out",
    "enable_checkpointing": "nothing: checkpoints are always written",
    "use_distributed_sampler": "nothing: images are always shared among processes",
}
"""Lightning's flags that would contradict ours, and what to use."""


def _check_trainer_flags(flags: dict[str, Any]) -> None:
    if not flags:
        return
    refuse_imports(flags)
    from lightning.pytorch import Trainer

    known = inspect.signature(Trainer).parameters
    for name in flags:
        if name in _CONTRADICTED:
            raise ValueError(f"trainer.{name} would contradict the run's own setting; use {_CONTRADICTED[name]}.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ValueError(f"Lightning's Trainer has no flag {name!r}. Similar: {', '.join(near) or 'none'}.")


@dataclass(frozen=True)
class TrainConfig:
    """A training run. `oddetr.training.plan.choice` fills in what has no default, from the data and the machine.

    Attributes:
        data: a data set's folder (COCO, Pascal VOC or YOLO layout), or `digits`, the built-in scenes.
        model: a preset's name, or `hf:` and the folder or hub name of transformers' RT-DETR, RT-DETR v2, D-FINE,
            DEIMv2 or Deformable-DETR; a folder with config.json alone begins at random. Default: chosen.
        epochs: passes over the training images; default: chosen.
        image_size: images are resized to this shorter side, in pixels; default: that of `init`, else chosen.
        batch_size: images of a batch on each device; a step is `accumulate` batches on every device. Default: chosen.
        seed: of weights, order of images, augmentation and dropout.
        allow_outside: read also what paths and links name outside of the data's folder; it is refused otherwise.
        out: the run's folder; default: a new one below runs/.
        resume: go on from the run's last checkpoint, with the run's own configuration.
        detector: changes to the preset, for example `--detector.num-queries 300`.
        init: a checkpoint whose detector and weights training begins with, instead of `model`: a run's folder, what
            `oddetr convert` wrote, or hf:user/name on the Hub. Its outputs for classes of the same name are carried
            over.
        backbone_weights: a file with the backbone's ImageNet weights; default: the offline package, else timm's.
        precision: of the forward pass; matching, losses and weights are always fp32.
        non_finite: what becomes of a step whose loss or gradient is not finite. `stop` ends the training with an error
            that names the images, and a replay file; `skip` leaves the step out, counts it, and stops after 20 of them
            one after another. Neither lets student or teacher move.
        accumulate: batches whose gradients make one step together.
        workers: processes that load images on each device; default: up to 4, as the machine has cores to spare.
        validate_every: epochs between validations; the last epoch is always validated. Default: chosen.
        optimizer: learning rate and schedule.
        loss: classification loss, and weights.
        matching: the matching cost's.
        groups: further groups of queries that only training has: Group DETR's, H-DETR's.
        distillation: the teacher and its three lessons; `--distillation.enabled false` is the baseline.
        augment: how training images vary.
        digits: the built-in scenes.
        loggers: where losses and scores are logged besides metrics.jsonl (docs/loggers.md).
        trainer: Lightning's own flags, for example `--trainer.devices 2`, `--trainer.num-nodes 2`; one device without.

    Raises:
        ValueError: a value that is out of range, an unknown preset or field.
    """

    data: str = DIGITS
    model: str | None = None
    epochs: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    seed: int = 0
    allow_outside: bool = False
    out: Path | None = None
    resume: bool = False
    detector: dict[str, Any] = field(default_factory=dict[str, Any])
    init: Path | None = None
    backbone_weights: Path | None = None
    precision: Precision = "fp32"
    non_finite: NonFinite = "stop"
    accumulate: int = 1
    workers: int | None = None
    validate_every: int | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    matching: MatchingWeights = field(default_factory=MatchingWeights)
    groups: GroupsConfig = field(default_factory=GroupsConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    digits: DigitsConfig = field(default_factory=DigitsConfig)
    loggers: tuple[LoggerName, ...] = ()
    trainer: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}.")
        if self.image_size is not None and self.image_size > MOST_SIDE:
            raise ValueError(f"image_size is {self.image_size}; it must be at most {MOST_SIDE:,}.")
        for name, known in (("precision", get_args(Precision)), ("non_finite", get_args(NonFinite))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}.")
        if self.model and self.model not in PRESETS and not self.hugging_face:
            raise ValueError(
                f"There is no model {self.model!r}; there are {', '.join(PRESETS)}, and {HUGGING_FACE}PATH_OR_NAME."
            )
        if self.init and self.model:
            raise ValueError(f"init brings its own detector; leave model ({self.model}) out, or init ({self.init}).")
        logger_names(self.loggers)
        self.detector_config()
        _check_trainer_flags(self.trainer)

    @property
    def hugging_face(self) -> str | None:
        """The folder or hub name of a model of transformers."""
        return self.model.removeprefix(HUGGING_FACE) if self.model and self.model.startswith(HUGGING_FACE) else None

    def detector_config(self) -> DetectorSpec:
        """The preset, or the detector of `init`, with the changes. (A run's own configuration has them all, so that it
        is resumed without what it began with.)

        Raises:
            CheckpointError: there is no checkpoint in `init`, or it cannot be read.
        """
        if "content" in self.detector:
            return read_config(self.detector)
        if self.init and not self.resume:
            return read_info(find_checkpoint(self.init)).detector.override(self.detector)
        if self.hugging_face:
            return HuggingFaceConfig.read(self.hugging_face).override(self.detector)
        return PRESETS[self.model or DEFAULT_MODEL].override(self.detector)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as `json.loads` would give them; `TrainConfig.from_plain` reads them."""
        parts = _parts(TrainConfig)
        fields = {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}
        plain = {name: dataclasses.asdict(value) if name in parts else value for name, value in fields.items()}
        plain |= {name: plain[name] and str(plain[name]) for name in _PATHS}
        trainer = {name: value for name, value in self.trainer.items() if name != "callbacks"}
        return json.loads(json.dumps(plain | {"trainer": trainer}))

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "TrainConfig":
        """Load what `to_json` wrote, of an older oddetr too, or a caller's keywords: paths may be strings, parts dicts.

        Raises:
            ValueError: a field does not exist (names similar ones), or see the class.
        """
        values = upgraded(values)
        known = _field_names(cls)
        for name in flat({name: value for name, value in values.items() if name not in _FREE}):
            if name not in known:
                raise ValueError(unknown_option(name, known))
        values |= {name: Path(values[name]) for name in _PATHS if values.get(name) is not None}
        if "data" in values:
            values["data"] = str(values["data"])
        if "loggers" in values:
            values["loggers"] = logger_names(values["loggers"])
        return _made(cls, values)


def chosen(value: Value | None) -> Value:
    """Return a value that `choice.choose` has filled in."""
    assert value is not None, "the run's choices are not made yet"
    return value


def logger_names(given: str | Sequence[str]) -> tuple[LoggerName, ...]:
    """Read names of loggers, a list or separated by commas; each once.

    Raises:
        ValueError: there is no such logger.
    """
    words = [word.strip() for word in given.strip("[]").split(",")] if isinstance(given, str) else given
    found: list[LoggerName] = []
    for word in dict.fromkeys(word for word in words if word):
        name = next((name for name in get_args(LoggerName) if name == word), None)
        if name is None:
            raise ValueError(f"There is no logger {word!r}; there are {', '.join(get_args(LoggerName))}.")
        found.append(name)
    return tuple(found)


def _parts(kind: type) -> dict[str, type]:
    """The fields of a configuration that are configurations themselves."""
    found = {part.name: part.default_factory for part in dataclasses.fields(kind)}
    return {name: part for name, part in found.items() if isinstance(part, type) and dataclasses.is_dataclass(part)}


def _field_names(kind: type, prefix: str = "") -> list[str]:
    """The dotted names of all fields, those of parts after the others."""
    names = [prefix + part.name for part in dataclasses.fields(kind)]
    return names + [name for part, of in _parts(kind).items() for name in _field_names(of, f"{prefix}{part}.")]


def _made(kind: type[Value], values: dict[str, Any]) -> Value:
    """Make a configuration of plain values; parts may be made already."""
    parts = {name: part for name, part in _parts(kind).items() if isinstance(values.get(name), dict)}
    return kind(**values | {name: _made(part, values[name]) for name, part in parts.items()})
