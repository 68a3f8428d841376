"""Choose the settings that the user leaves open from the data and the machine, and give the reasons.

Sizes and rates are those that did well in short runs (docs/results.md): a detector of 50 to 100 queries on two CPU
cores, some thousands of steps from ImageNet weights.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from oddetr.checkpoints.checkpoint import find_checkpoint, read_info
from oddetr.data.dataset import Annotations, Source
from oddetr.data.digits import MAX_OBJECTS, DigitScenes
from oddetr.data.image_sizes import native_sizes
from oddetr.data.sources import DIGITS
from oddetr.data.transforms import LEAST_SIDE
from oddetr.distillation.teacher import AUTO_HORIZON
from oddetr.models.families.build import is_complete
from oddetr.models.transformers.files import configuration_only
from oddetr.models.transformers.pretrained_models import BY_KIND, CATALOGUE, FineTuning
from oddetr.training.config import DEFAULT_MODEL, SCRATCH, OptimizerConfig, TrainConfig, chosen
from oddetr.training.processes import process_count

Part = TypeVar("Part", TrainConfig, OptimizerConfig)
GPU_MODEL = "deformable_detr_refine_r50"
_PRETRAINED = {"cpu": "dfine-n", "gpu": "dfine-s"}
"""The detector trained on COCO that a run starts from."""
_MODELS = {
    "cpu": (DEFAULT_MODEL, 40, 300, "no CUDA GPU is used"),
    "gpu": (GPU_MODEL, 100, 900, "there is a GPU"),
}
"""The preset where no such detector can be had, its fewest and most queries, and the reason."""
SIZES = {"cpu": (240, 320, 400, 480), "gpu": (480, 640, 800)}
"""Shorter sides to choose from, in pixels."""
LEGIBLE = 20
"""Square root of the area in pixels that nine of ten objects of each class should have at least."""
STEPS = {"cpu": 2500, "gpu": 6000}
"""Optimizer steps that a short run should have."""
EPOCHS = (12, 100)
VALIDATIONS = 16
PAD_TO = {"cpu": 1, "gpu": 64}
"""Pixels to a multiple of which training images are padded: a CPU computes the padding, a GPU prepares its kernels, and
fills its caches, for each new shape (docs/performance.md)."""
LEAST_BATCHES = 50
"""Batches of an epoch, if there are enough images."""
SHORT = 20_000
"""Steps up to which a run without a pretrained detector has the higher rates."""
OFFICIAL = {"learning_rate": 2e-4, "backbone_factor": 0.1, "schedule": "step"}
"""Deformable-DETR's rates: for longer runs, and for fine-tuning its presets."""
RATES = {"cpu": 8e-4, "gpu": 4e-4}
"""The learning rates of short runs from ImageNet weights; the former did well in docs/results.md."""
PRETRAINED_SIZE = 640
"""The shorter side in pixels at which the detectors of the catalogue were trained."""
GIB_PER_IMAGE = 2.5
"""GPU memory in GiB per image of 640 x 640 pixels; 2.2 were measured for the baseline (docs/performance.md)."""


def fullest(truth: Annotations) -> int:
    """Return the largest number of objects in an image, without crowd regions."""
    return int(np.bincount(truth.owners[~truth.crowd], minlength=1).max())


def queries_for(objects: int) -> int:
    """Return enough queries for so many objects: twice as many, rounded up to tens."""
    return 10 * math.ceil(objects / 5)


@dataclass(frozen=True)
class Facts:
    """Facts of the training images.

    Attributes:
        images: how many.
        side: median of the image sizes at which they keep their own size, in pixels; see `native_sizes`.
        smallest: the tenth percentile of the square root of objects' areas, over that size of their image; of the class
            with the smallest objects.
        most: the largest number of objects in an image.
        padded: the area to which the images of a batch are padded, over the square of the image size.
    """

    images: int
    side: int
    smallest: float
    most: int
    padded: float = 1.0

    @classmethod
    def of_source(cls, train: Source) -> "Facts":
        """Make them from the training images; the built-in scenes are legible at their own size."""
        if isinstance(train, DigitScenes):
            return cls(len(train), 128, 1.0, MAX_OBJECTS)
        return cls.of(train.annotations())

    @classmethod
    def of(cls, truth: Annotations) -> "Facts":
        """Make them from annotations with at least one object; crowd regions do not count."""
        owners = truth.owners[~truth.crowd]
        native = native_sizes(truth.sizes)
        relative, labels = np.sqrt(truth.areas[~truth.crowd]) / native[owners], truth.labels[~truth.crowd]
        smallest = min(float(np.quantile(relative[labels == label], 0.1)) for label in np.unique(labels))
        sides = np.quantile(truth.sizes / native[:, None], 0.95, axis=0)  # where `native` is the image size
        padded = float(sides.prod())
        return cls(len(truth), int(np.median(native)), smallest, fullest(truth), padded)


@dataclass(frozen=True)
class Machine:
    """What a run computes on.

    Attributes:
        gpu_gib: free memory of the first CUDA device of the run, in GiB; None without one.
        devices: how many.
        bf16: whether they compute in bfloat16 themselves.
    """

    gpu_gib: float | None = None
    devices: int = 1
    bf16: bool = False

    @classmethod
    def this(cls, trainer: dict[str, Any]) -> "Machine":
        """Describe this machine, under Lightning's flags."""
        devices = process_count(trainer)
        if not torch.cuda.is_available() or trainer.get("accelerator") == "cpu":
            return cls(devices=devices)
        named = trainer.get("devices")
        free, _ = torch.cuda.mem_get_info(named[0] if isinstance(named, list) else 0)
        return cls(free / 2**30, devices, torch.cuda.is_bf16_supported(including_emulation=False))

    @property
    def kind(self) -> str:
        """`gpu` or `cpu`."""
        return "cpu" if self.gpu_gib is None else "gpu"


def choose(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[TrainConfig, list[str]]:
    """Fill in what `config` leaves open, and return it with the reason of each choice. The same data on the same kind
    of machine gives the same choices."""
    reasons: list[str] = []
    for chooser in (_with_model, _with_image_size, _with_padding, _with_precision, _with_length, _with_rates):
        config, reason = chooser(config, facts, machine)
        reasons += [reason] if reason else []
    return config, reasons


def choose_size_and_length(config: TrainConfig, facts: Facts, machine: Machine) -> TrainConfig:
    """Fill in image size, batch size and epochs as `choose` does, without looking for a detector: where `choose` would
    look for one trained on COCO, it counts as found."""
    for chooser in (_with_image_size, _with_length):
        config, _ = chooser(config, facts, machine)
    return config


def with_fixed_defaults(config: TrainConfig) -> TrainConfig:
    """Fill in constants instead of choices, so that runs that are compared do not depend on the machine. (They were the
    defaults of the first versions, whose runs `--resume` continues.)"""
    constants: dict[str, Any] = {"epochs": 50, "batch_size": 8, "validate_every": 1, "precision": "fp32", "pad_to": 1}
    if config.model == SCRATCH:
        config = replace(config, model=None)
    if not config.init:
        constants |= {"model": DEFAULT_MODEL, "image_size": 128 if config.data == DIGITS else 320}
    elif config.image_size is None:
        constants["image_size"] = read_info(find_checkpoint(config.init)).image_size
    return _filled(replace(config, optimizer=_filled(config.optimizer, OFFICIAL)), constants)


def steps_of(config: TrainConfig, images: int, devices: int) -> tuple[int, int]:
    """Return the optimizer steps of an epoch, and of the run."""
    batches = limited(math.ceil(math.ceil(images / devices) / chosen(config.batch_size)), config.trainer, "train")
    each = math.ceil(batches / config.accumulate)
    return each, each * chosen(config.epochs)


def limited(batches: int, flags: dict[str, Any], split: str) -> int:
    """Return how many of the `batches` of an epoch Lightning takes under its flag `limit_SPLIT_batches`."""
    limit: int | float | None = flags.get(f"limit_{split}_batches")
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def _filled(config: Part, values: dict[str, Any]) -> Part:
    """`config` with those of `values` whose fields are open."""
    return replace(config, **{name: value for name, value in values.items() if getattr(config, name) is None})


def _with_model(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[TrainConfig, str]:
    if config.model not in (None, SCRATCH) or config.init or is_complete(config.detector):
        return config, ""
    model, least, most, why = _MODELS[machine.kind]
    missing = ""
    if _wants_pretrained(config):
        name = _PRETRAINED[machine.kind]
        missing = CATALOGUE[name].unavailable()
        if not missing:
            return _pretrained(config, name, facts), f"model {name}: trained on {CATALOGUE[name].images}, {why}"
        missing = f". The first choice, {name}, which is trained on COCO, cannot be had: {missing}"
    detector = dict(config.detector)
    if "num_queries" not in detector:
        detector["num_queries"] = min(most, max(least, queries_for(facts.most)))
        why += f", {detector['num_queries']} queries for at most {facts.most} objects in an image"
    return replace(config, model=model, detector=detector), f"model {model}: {why}{missing}"


def _wants_pretrained(config: TrainConfig) -> bool:
    """Whether a detector trained on COCO is the first choice."""
    return config.model is None and config.data != DIGITS and not config.detector


def _pretrained(config: TrainConfig, name: str, facts: Facts) -> TrainConfig:
    """The detector of the catalogue, with more queries where an image has more objects than half of its own."""
    queries = queries_for(facts.most)
    config = replace(config, model=name)
    usual = config.detector_config().num_queries or queries
    return replace(config, detector={"num_queries": queries}) if queries > usual else config


def _with_image_size(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[TrainConfig, str]:
    if config.image_size is not None:
        return config, ""
    sizes = SIZES[machine.kind]
    size = next((size for size in sizes if size * facts.smallest >= LEGIBLE), sizes[-1])
    if config.init:
        size, why = read_info(find_checkpoint(config.init)).image_size, f"that of {config.init}"
    elif (config.model in CATALOGUE or _wants_pretrained(config)) and machine.kind == "gpu":
        size, why = PRETRAINED_SIZE, "that of the detector's own training"
    elif facts.side <= size:
        size, why = max(LEAST_SIDE, facts.side), "the images' own shorter side"
    else:
        legible = f"{size * facts.smallest:.0f} px or more"
        why = f"nine of ten objects of each class have {legible} then (the images' own: {facts.side})"
    return replace(config, image_size=size), f"image size {size}: {why}"


def _with_padding(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[TrainConfig, str]:
    if config.pad_to is not None:
        return config, ""
    multiple = PAD_TO[machine.kind]
    reason = f"padding to multiples of {multiple} pixels: a GPU prepares for each new shape" if multiple > 1 else ""
    return replace(config, pad_to=multiple), reason


def _with_precision(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[TrainConfig, str]:
    if config.precision is not None:
        return config, ""
    if machine.bf16:
        return replace(config, precision="bf16"), "precision bf16: the GPU computes in it; --precision fp32 is exact"
    return replace(config, precision="fp32"), ""


def _with_length(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[TrainConfig, str]:
    """Choose batch size, epochs, and epochs between validations."""
    if None not in (config.batch_size, config.epochs, config.validate_every):
        return config, ""
    config = _filled(config, {"batch_size": _batch_size(config, facts, machine)})
    each, _ = steps_of(replace(config, epochs=1), facts.images, machine.devices)
    least, most = EPOCHS
    config = _filled(config, {"epochs": min(most, max(least, math.ceil(STEPS[machine.kind] / each)))})
    config = _filled(config, {"validate_every": validation_period(chosen(config.epochs))})
    _, steps = steps_of(config, facts.images, machine.devices)
    every = "" if config.validate_every == 1 else f", validated every {config.validate_every}"
    horizon = config.distillation.horizon or max(1.0, AUTO_HORIZON * steps)
    return config, (
        f"batch size {config.batch_size}, {config.epochs} epochs of {facts.images} images: {steps:,} steps{every}; "
        f"the teacher averages over {horizon:.0f} of them"
    )


def validation_period(epochs: int) -> int:
    """The epochs between validations: about a sixteenth of the run, if possible a divisor of the epochs, since
    matchings of successive validations are compared."""
    wanted = max(1, round(epochs / VALIDATIONS))
    even = [every for every in range(math.ceil(wanted / 2), 2 * wanted + 1) if epochs % every == 0]
    return min(even, key=lambda every: abs(every - wanted), default=wanted)


def _batch_size(config: TrainConfig, facts: Facts, machine: Machine) -> int:
    if machine.gpu_gib is None:
        return 4 if facts.images < 1000 else 8
    fitting = machine.gpu_gib / (GIB_PER_IMAGE * facts.padded * (chosen(config.image_size) / 640) ** 2)
    return 2 ** int(np.clip(math.log2(max(min(fitting, facts.images / LEAST_BATCHES), 1)), 1, 4))


def _with_rates(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[TrainConfig, str]:
    """Choose learning rates. Deformable-DETR's are for 185,000 steps (50 epochs of COCO, batches of 32), and suit
    fine-tuning its presets; a detector of transformers is fine-tuned as its authors do."""
    _, steps = steps_of(config, facts.images, machine.devices)
    if tuning := fine_tuning(config):
        images = chosen(config.batch_size) * config.accumulate * machine.devices
        rates = {"learning_rate": tuning.rate_for(images), "backbone_factor": tuning.backbone_factor}
        optimizer = _filled(config.optimizer, OFFICIAL | rates)
        reason = (
            f"learning rate {optimizer.learning_rate:g}, the backbone's {optimizer.backbone_factor:g} of it: its "
            f"authors' {tuning.learning_rate:g} for {tuning.images} images a step, scaled to {images}"
        )
        return replace(config, optimizer=optimizer), reason if config.optimizer.learning_rate is None else ""
    short = steps <= SHORT and not config.init and not config.hugging_face
    higher = {"learning_rate": RATES[machine.kind], "backbone_factor": 0.4, "schedule": "cosine"}
    optimizer = _filled(config.optimizer, higher if short else OFFICIAL)
    imagenet = " from ImageNet weights" if config.detector.get("pretrained", True) else ""
    why = f"at most {SHORT:,} steps{imagenet}" if short else "Deformable-DETR's"
    reason = f"learning rate {optimizer.learning_rate:g}, {optimizer.schedule} schedule: {why}"
    reason = reason if config.optimizer.learning_rate is None else ""
    return replace(config, optimizer=optimizer), reason


def fine_tuning(config: TrainConfig) -> FineTuning | None:
    """Return how the authors of a detector of transformers fine-tune it; None where no weights are loaded, or for a
    kind without such a record."""
    if config.model in CATALOGUE:
        return CATALOGUE[config.model].fine_tuning
    if config.hugging_face and not configuration_only(config.hugging_face):
        return BY_KIND.get(config.detector_config().family)
    return None
