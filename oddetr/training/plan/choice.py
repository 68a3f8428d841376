"""Choose the settings that the user leaves open from the data and the machine, and give the reasons.

Sizes and rates are those that did well in short runs (docs/results.md): a detector of 50 to 100 queries on two CPU
cores, some thousands of steps from ImageNet weights.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from oddetr.checkpoints.checkpoint import find_checkpoint, read_info
from oddetr.data.dataset import Annotations
from oddetr.data.digits import MAX_OBJECTS
from oddetr.data.sources import DIGITS
from oddetr.data.transforms import LEAST_SIDE
from oddetr.distillation.teacher import AUTO_HORIZON
from oddetr.training.config import DEFAULT_MODEL, TrainConfig, chosen
from oddetr.training.processes import process_count

GPU_MODEL = "deformable_detr_refine_r50"
SIZES = {"cpu": (240, 320, 400, 480), "gpu": (480, 640, 800)}
"""Shorter sides to choose from, in pixels."""
LEGIBLE = 16
"""Square root of the area in pixels that nine of ten objects should have at least: two cells of the finest map."""
STEPS = {"cpu": 2500, "gpu": 6000}
"""Optimizer steps that a short run should have."""
EPOCHS = (12, 100)
VALIDATIONS = 16
LEAST_BATCHES = 50
"""Batches of an epoch, if there are enough images."""
SHORT = 20_000
"""Steps up to which a run without a pretrained detector has the higher rates."""
OFFICIAL = {"learning_rate": 2e-4, "backbone_factor": 0.1}
"""Deformable-DETR's rates: for longer runs and for fine-tuning."""
GIB_PER_IMAGE = 2.5
"""GPU memory in GiB per image of 640 pixels; 2.2 were measured for the baseline (docs/performance.md)."""


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
        side: median of their shorter sides, in pixels.
        smallest: the tenth percentile of the square root of objects' areas, over the image's shorter side.
        most: the largest number of objects in an image.
    """

    images: int
    side: int
    smallest: float
    most: int

    @classmethod
    def of(cls, truth: Annotations) -> "Facts":
        """Make them from annotations with at least one object; crowd regions do not count."""
        owners = truth.owners[~truth.crowd]
        shorter = truth.sizes.min(axis=1)
        relative = np.sqrt(truth.areas[~truth.crowd]) / shorter[owners]
        return cls(len(truth), int(np.median(shorter)), float(np.quantile(relative, 0.1)), fullest(truth))

    @classmethod
    def of_digits(cls, images: int) -> "Facts":
        """Make them for the built-in scenes, which are legible at their own size."""
        return cls(images, 128, 1.0, MAX_OBJECTS)


@dataclass(frozen=True)
class Machine:
    """The machine: `gpu_gib`, memory of the first CUDA device in GiB, None without one; and the number of devices."""

    gpu_gib: float | None = None
    devices: int = 1

    @classmethod
    def this(cls, trainer: dict[str, Any]) -> "Machine":
        """Describe this machine, under Lightning's flags."""
        devices = process_count(trainer)
        if trainer.get("accelerator") == "cpu" or not torch.cuda.is_available():
            return cls(None, devices)
        return cls(torch.cuda.get_device_properties(0).total_memory / 2**30, devices)

    @property
    def kind(self) -> str:
        """`gpu` or `cpu`."""
        return "cpu" if self.gpu_gib is None else "gpu"


@dataclass(frozen=True)
class Choice:
    """A complete configuration, and the reasons of what was chosen, a line each."""

    config: TrainConfig
    reasons: tuple[str, ...]


def choose(config: TrainConfig, facts: Facts, machine: Machine) -> Choice:
    """Fill in what `config` leaves open. The same data on the same kind of machine gives the same choice."""
    open_ = [part.name for part in fields(config) if getattr(config, part.name) is None]
    reasons: list[str] = []
    if "model" in open_ and not config.init and "content" not in config.detector:
        config = _with_model(config, facts, machine, reasons)
    if "image_size" in open_:
        size, why = _image_size(config, facts, machine)
        config = replace(config, image_size=size)
        reasons.append(f"image size {size}: {why}")
    if {"batch_size", "epochs", "validate_every"} & {*open_}:
        config = _with_length(config, facts, machine, open_, reasons)
    return Choice(_with_rates(config, facts, machine, reasons), tuple(reasons))


def settled(config: TrainConfig) -> TrainConfig:
    """Fill in constants instead of choices, so that runs that are compared do not depend on the machine. (They were the
    defaults of the first versions, whose runs `--resume` goes on with.)"""
    constants: dict[str, Any] = {"epochs": 50, "batch_size": 8, "validate_every": 1}
    if not config.init:
        constants |= {"model": DEFAULT_MODEL, "image_size": 128 if config.data == DIGITS else 320}
    elif config.image_size is None:
        constants["image_size"] = read_info(find_checkpoint(config.init)).image_size
    left = {name: value for name, value in constants.items() if getattr(config, name) is None}
    rates = {name: value for name, value in OFFICIAL.items() if getattr(config.optimizer, name) is None}
    return replace(config, **left, optimizer=replace(config.optimizer, **rates))


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


def _with_model(config: TrainConfig, facts: Facts, machine: Machine, reasons: list[str]) -> TrainConfig:
    model, why = (DEFAULT_MODEL, "no CUDA GPU is used") if machine.kind == "cpu" else (GPU_MODEL, "there is a GPU")
    detector, queries = dict(config.detector), ""
    if "num_queries" not in detector:
        least, most = (40, 300) if machine.kind == "cpu" else (100, 900)
        detector["num_queries"] = min(most, max(least, queries_for(facts.most)))
        queries = f", {detector['num_queries']} queries for at most {facts.most} objects in an image"
    reasons.append(f"model {model}: {why}{queries}")
    return replace(config, model=model, detector=detector)


def _image_size(config: TrainConfig, facts: Facts, machine: Machine) -> tuple[int, str]:
    if config.init:
        return read_info(find_checkpoint(config.init)).image_size, f"that of {config.init}"
    sizes = SIZES[machine.kind]
    size = next((size for size in sizes if size * facts.smallest >= LEGIBLE), sizes[-1])
    if facts.side <= size:
        return max(LEAST_SIDE, facts.side), "the images' own shorter side"
    return size, f"nine of ten objects have {size * facts.smallest:.0f} px or more then (the images' own: {facts.side})"


def _with_length(
    config: TrainConfig, facts: Facts, machine: Machine, open_: list[str], reasons: list[str]
) -> TrainConfig:
    if "batch_size" in open_:
        config = replace(config, batch_size=_batch_size(config, facts, machine))
    if "epochs" in open_:
        each, _ = steps_of(replace(config, epochs=1), facts.images, machine.devices)
        least, most = EPOCHS
        config = replace(config, epochs=min(most, max(least, math.ceil(STEPS[machine.kind] / each))))
    if "validate_every" in open_:
        config = replace(config, validate_every=_period(chosen(config.epochs)))
    each, steps = steps_of(config, facts.images, machine.devices)
    every = "" if config.validate_every == 1 else f", validated every {config.validate_every}"
    horizon = config.distillation.horizon or max(1.0, AUTO_HORIZON * steps)
    reasons.append(
        f"batch size {config.batch_size}, {config.epochs} epochs of {facts.images} images: {steps:,} steps{every}; "
        f"the teacher averages over {horizon:.0f} of them"
    )
    return config


def _period(epochs: int) -> int:
    """Epochs between validations: about a sixteenth of the run, if possible a divisor of the epochs, since matchings of
    successive validations are compared."""
    wanted = max(1, round(epochs / VALIDATIONS))
    even = [every for every in range(math.ceil(wanted / 2), 2 * wanted + 1) if epochs % every == 0]
    return min(even, key=lambda every: abs(every - wanted), default=wanted)


def _batch_size(config: TrainConfig, facts: Facts, machine: Machine) -> int:
    if machine.gpu_gib is None:
        return 4 if facts.images < 1000 else 8
    fitting = machine.gpu_gib / (GIB_PER_IMAGE * (chosen(config.image_size) / 640) ** 2)
    return 2 ** int(np.clip(math.log2(max(min(fitting, facts.images / LEAST_BATCHES), 1)), 1, 4))


def _with_rates(config: TrainConfig, facts: Facts, machine: Machine, reasons: list[str]) -> TrainConfig:
    """Choose learning rates. Deformable-DETR's are for 185,000 steps (50 epochs of COCO, batches of 32), and suit
    fine-tuning."""
    optimizer = config.optimizer
    if optimizer.learning_rate is not None and optimizer.backbone_factor is not None:
        return config
    _, steps = steps_of(config, facts.images, machine.devices)
    short = steps <= SHORT and not config.init and not config.hugging_face
    rates = {"learning_rate": 4e-4, "backbone_factor": 0.4} if short else OFFICIAL
    filled = {name: value for name, value in rates.items() if getattr(optimizer, name) is None}
    optimizer = replace(optimizer, **filled)
    if "learning_rate" in filled:
        imagenet = " from ImageNet weights" if config.detector.get("pretrained", True) else ""
        why = f"at most {SHORT:,} steps{imagenet}" if short else "Deformable-DETR's"
        reasons.append(f"learning rate {optimizer.learning_rate:g}: {why}")
    return replace(config, optimizer=optimizer)
