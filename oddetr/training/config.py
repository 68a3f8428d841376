"""The configuration of a training run: every field is an argument of `oddetr train` and of `oddetr.train`."""

import dataclasses
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from oddetr.checkpoints.checkpoint import find_checkpoint, read_info
from oddetr.common.hub_names import PREFIX, on_hub
from oddetr.common.text import KINDS, unknown_option
from oddetr.common.untrusted import refuse_imports
from oddetr.data.reading_config import MOST_PIXELS, ReadingConfig
from oddetr.data.sources import DIGITS, DigitsConfig
from oddetr.data.transforms import LEAST_SIDE, MOST_SIDE, AugmentConfig
from oddetr.distillation.config import DistillationConfig
from oddetr.distillation.group_detr import GroupsConfig
from oddetr.losses.detection import LossConfig
from oddetr.losses.matching import MatchingWeights
from oddetr.models.detector import Detector, Frozen
from oddetr.models.detector_spec import DetectorSpec
from oddetr.models.families.build import PRESETS, is_complete, read_config
from oddetr.models.transformers.config import HuggingFaceConfig
from oddetr.models.transformers.pretrained_models import CATALOGUE
from oddetr.training.old_configs import upgraded

Precision = Literal["fp32", "bf16", "fp16"]
NonFinite = Literal["stop", "skip"]
LoggerName = Literal["tensorboard", "mlflow", "wandb"]
DEFAULT_MODEL = "deformable_detr_refine_tiny"
SCRATCH = "scratch"
"""The name of no model: a preset is chosen, whose backbone alone is pretrained."""
Value = TypeVar("Value")
_KINDS: dict[str, Callable[[Any], Any]] = {
    **{"data": str, "out": Path, "init": Path, "backbone_weights": Path},
    "loggers": lambda names: tuple(dict.fromkeys(names)),
}
"""How fields are made that callers may give as something else."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate over the run; times are fractions of the run.

    Attributes:
        learning_rate: of all but the following (Deformable-DETR: 2e-4); default: see `oddetr.training.plan.choice`.
        backbone_factor: the backbone's rate over the others' (Deformable-DETR: 0.1); default: likewise.
        places_factor: likewise of what moves the places that queries read (Deformable-DETR: 0.1; 1 in the official code
            of DAB-Deformable-DETR and DINO).
        weight_decay: AdamW's (Deformable-DETR: 1e-4).
        clip: largest norm of the gradient of all parameters (Deformable-DETR: 0.1); 0 does not clip.
        schedule: `step` divides the rate by 10 at `drop_at`; `cosine` lets it fall to 0; default: likewise.
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
    schedule: Literal["step", "cosine"] | None = None
    drop_at: float = 0.8
    warmup: float = 0.01

    def __post_init__(self) -> None:
        check_choices(self, "optimizer.")
        for name in ("learning_rate", "backbone_factor", "places_factor", "weight_decay", "clip"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"optimizer.{name} is {value}; it must be at least 0.")
        if self.learning_rate == 0:
            raise ValueError("optimizer.learning_rate is 0; it must be above 0.")
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


_LEAST = {
    "epochs": 1,
    "image_size": LEAST_SIDE,
    "slice": LEAST_SIDE,
    "batch_size": 1,
    "pad_to": 1,
    "accumulate": 1,
    "validate_every": 1,
    "patience": 0,
    "seed": 0,
    "workers": 0,
}
_SET_BY_US = {
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
"""Flags of Lightning's Trainer that the run sets itself, and the option to use instead."""


def _check_trainer_flags(flags: dict[str, Any]) -> None:
    if not flags:
        return
    refuse_imports(flags)
    from lightning.pytorch import Trainer

    known = [f"trainer.{name}" for name in inspect.signature(Trainer).parameters]
    for name in flags:
        if name in _SET_BY_US:
            raise ValueError(f"trainer.{name} would contradict the run's own setting; use {_SET_BY_US[name]}.")
        if f"trainer.{name}" not in known:
            raise ValueError(unknown_option(f"trainer.{name}", known))


def check_choices(config: Any, prefix: str = "") -> None:
    """Check the fields of a configuration whose type is a `Literal`, or one or None.

    Raises:
        ValueError: a field has another value; names it, and the values that it takes.
    """
    for name, kind in get_type_hints(type(config)).items():
        value, optional = getattr(config, name), type(None) in get_args(kind)
        literal = get_args(kind)[0] if optional else kind
        known = get_args(literal)
        if get_origin(literal) is Literal and value not in known and not (optional and value is None):
            raise ValueError(f"{prefix}{name} is {value!r}; it must be one of {', '.join(known)}.")


@dataclass(frozen=True)
class TrainConfig:
    """A training run. `oddetr.training.plan.choice` fills in what has no default, from the data and the machine.

    Attributes:
        data: a data set's folder (COCO, Pascal VOC or YOLO layout), or `digits`, the built-in scenes.
        model: a detector trained on COCO (`oddetr models` lists them), a preset of this package, or `hf:` and the
            folder or hub name of transformers' RT-DETR, RT-DETR v2, D-FINE, DEIMv2 or Deformable-DETR; a folder with
            config.json alone starts from random weights. Default: `dfine-n` on a CPU and `dfine-s` on a GPU where
            transformers is installed and their weights can be had, else a preset; `scratch` is always a preset.
        epochs: passes over the training images; default: chosen.
        hours: choose the epochs so that the run ends, at its lowest learning rate, after so many hours: a few steps and
            a validation are timed before the start. Use it instead of `epochs`, and with one process.
        image_size: images are resized to this shorter side, in pixels; default: that of `init`, else chosen.
        slice: for small objects in large images: train and validate on overlapping square tiles of this side in pixels,
            and on whole images where an object fits into no tile; `predict --slice` detects in the same tiles.
        batch_size: images of a batch on each device; a step is `accumulate` batches on every device. Default: chosen.
        pad_to: training images of a batch are padded to a multiple of so many pixels; default: 64 on a GPU, which
            prepares for each new shape, else 1.
        seed: of weights, order of images, augmentation and dropout.
        allow_outside: read also what paths and links name outside of the data's folder; it is refused otherwise.
        ignore_exif: take images as stored, not turned by their EXIF orientation: for boxes that were drawn so.
        crowds_as_objects: learn COCO's crowd regions and VOC's difficult objects like any other.
        skip_broken: leave out images that cannot be read or have annotations that cannot, instead of refusing to train.
        most_pixels: of an image; larger ones are refused.
        grey_bits: bits that grey images of 16 bits use, such as 12; default: found in the images.
        out: the run's folder; default: a new one below runs/.
        resume: continue from the run's last checkpoint, with the run's own configuration.
        detector: changes to the preset, for example `--detector.num-queries 300`.
        init: a checkpoint whose detector and weights training starts from, instead of `model`: a run's folder, what
            `oddetr convert` wrote, or hf:user/name on the Hub. Its outputs for classes of the same name are carried
            over.
        freeze: train neither the backbone, nor, with `encoder`, the encoder: less time and memory where the objects
            look like those of the weights that the run starts from.
        backbone_weights: a file with the backbone's ImageNet weights; default: the offline package, else timm's.
        gradient_checkpointing: compute the inside of layers again in the backward pass, not keep it: the same gradients
            in less memory, but a longer step (docs/performance.md).
        precision: of the forward pass; matching, losses and weights are always fp32. Default: bf16 on GPUs that compute
            in it, else fp32.
        non_finite: what becomes of a step whose loss or gradient is not finite. `stop` ends the training with an error
            that names the images, and a replay file; `skip` leaves the step out, counts it, and stops after 20 of them
            one after another. Neither lets student or teacher move.
        accumulate: batches whose gradients make one step together.
        workers: processes that load images on each device; default: up to 4, as the machine has cores to spare.
        validate_every: epochs between validations; the last epoch is always validated. Default: chosen.
        patience: stop after so many validations in a row without a better AP of the teacher; 0, the default: never.
            The best usually comes near the end, at a low learning rate, which a run that stops before has not seen.
        repeat_threshold: images of rare classes are seen more often in an epoch: of a class that a share f of the
            images shows, below this threshold t, sqrt(t / f) times (LVIS; 0.001 there). 0, the default, repeats none.
        optimizer: learning rate and schedule.
        loss: classification loss and loss weights.
        matching: weights of the matching cost.
        groups: further groups of queries that only training has: Group DETR's, H-DETR's.
        distillation: the teacher and its three terms; `--distillation.enabled false` is the baseline.
        augment: how training images vary.
        digits: the built-in scenes.
        loggers: where losses and scores are logged besides metrics.jsonl (docs/loggers.md).
        trainer: Lightning's own flags, for example `--trainer.devices 2`, `--trainer.num-nodes 2`; one device without.
            `--trainer.deterministic true` makes a GPU's steps repeatable, in much more memory (docs/gpus.md).

    Raises:
        ValueError: a value that is out of range, an unknown preset or field.
    """

    data: str = DIGITS
    model: str | None = None
    epochs: int | None = None
    hours: float | None = None
    image_size: int | None = None
    slice: int | None = None
    batch_size: int | None = None
    pad_to: int | None = None
    seed: int = 0
    allow_outside: bool = False
    ignore_exif: bool = False
    crowds_as_objects: bool = False
    skip_broken: bool = False
    most_pixels: int = MOST_PIXELS
    grey_bits: int | None = None
    out: Path | None = None
    resume: bool = False
    detector: dict[str, Any] = field(default_factory=dict[str, Any])
    init: Path | None = None
    freeze: Frozen = "nothing"
    backbone_weights: Path | None = None
    gradient_checkpointing: bool = False
    precision: Precision | None = None
    non_finite: NonFinite = "stop"
    accumulate: int = 1
    workers: int | None = None
    validate_every: int | None = None
    patience: int = 0
    repeat_threshold: float = 0.0
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
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise ValueError(f"hours is {self.hours}; it must be above 0.")
        if self.hours and self.epochs:
            raise ValueError(f"hours is {self.hours} and epochs is {self.epochs}; leave one out.")
        if not 0 <= self.repeat_threshold <= 1:
            raise ValueError(f"repeat_threshold is {self.repeat_threshold}; it is a share of the images, in [0, 1].")
        if self.repeat_threshold and self.data == DIGITS:
            raise ValueError("repeat_threshold is for data with rare classes; the built-in digits have none.")
        check_choices(self)
        if self.model and self.model not in (*PRESETS, SCRATCH) and not self.hugging_face:
            raise ValueError(
                f"There is no model {self.model!r}; there are {', '.join((*CATALOGUE, *PRESETS))}, {SCRATCH}, and "
                f"{PREFIX}PATH_OR_NAME."
            )
        if self.init and self.model:
            raise ValueError(f"init brings its own detector; leave model ({self.model}) out, or init ({self.init}).")
        for name in self.loggers:
            if name not in get_args(LoggerName):
                raise ValueError(f"There is no logger {name!r}; there are {', '.join(get_args(LoggerName))}.")
        ReadingConfig.recorded(vars(self), self.allow_outside)
        self.detector_config()
        _check_trainer_flags(self.trainer)

    @property
    def reading(self) -> ReadingConfig:
        """How the data is read."""
        return ReadingConfig.recorded(vars(self), self.allow_outside)

    @property
    def hugging_face(self) -> str | None:
        """The folder or hub name of a model of transformers."""
        if self.model in CATALOGUE:
            return CATALOGUE[self.model].address
        return self.model.removeprefix(PREFIX) if self.model and on_hub(self.model) else None

    def set_up(self, detector: Detector) -> None:
        """Freeze the parts of a new detector that are not to be trained, and save memory if that is asked for."""
        detector.freeze(self.freeze)
        if self.gradient_checkpointing:
            detector.checkpoint_gradients()

    def detector_config(self) -> DetectorSpec:
        """The preset, or the detector of `init`, with the changes. A run records every field
        of its detector, so that resuming needs neither preset nor `init`.

        Raises:
            CheckpointError: there is no checkpoint in `init`, or it cannot be read.
        """
        if is_complete(self.detector):
            return read_config(self.detector)
        if self.init and not self.resume:
            return read_info(find_checkpoint(self.init)).detector.override(self.detector)
        if self.hugging_face:
            return HuggingFaceConfig.read(self.hugging_face).override(self.detector)
        return PRESETS.get(self.model or DEFAULT_MODEL, PRESETS[DEFAULT_MODEL]).override(self.detector)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as `json.loads` would give them; `TrainConfig.from_plain` reads them."""
        trainer = {name: value for name, value in self.trainer.items() if name != "callbacks"}
        return json.loads(json.dumps(vars(self) | {"trainer": trainer}, default=_plain))

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "TrainConfig":
        """Read a configuration that this or an older oddetr wrote, or a caller's keywords.

        Paths may be strings, and parts dicts.

        Raises:
            ValueError: a field does not exist (names similar ones), or see the class.
        """
        values = upgraded(values)
        values |= {name: kind(values[name]) for name, kind in _KINDS.items() if values.get(name) is not None}
        return _made(cls, values)


def chosen(value: Value | None) -> Value:
    """Return a value that `choice.choose` has filled in."""
    assert value is not None, "the run's choices are not made yet"
    return value


def _plain(value: Any) -> Any:
    """A part of a configuration as a dict; a path, or what else JSON lacks, as text."""
    return vars(value) if dataclasses.is_dataclass(value) else str(value)


def _made(kind: type[Value], values: dict[str, Any], prefix: str = "") -> Value:
    """Make a configuration of plain values; parts may be dicts, or made already. `prefix` names it in errors."""
    fields = {prefix + part.name: part.default_factory for part in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    made: dict[str, Any] = {}
    for name, value in values.items():
        dotted = prefix + name
        if dotted not in fields:
            raise ValueError(unknown_option(dotted, fields))
        part = fields[dotted]
        if isinstance(part, type) and dataclasses.is_dataclass(part) and not isinstance(value, part):
            if not isinstance(value, dict):
                raise ValueError(f"{dotted} takes {KINDS['dict']}, not {str(value)!r}.")
            value = _made(part, value, f"{dotted}.")
        made[name] = value
    return kind(**made)
