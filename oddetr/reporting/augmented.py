"""`augment`: a page of training examples as the detector will see them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from oddetr.boxes import cxcywh_to_xyxy
from oddetr.common.durable import write_file
from oddetr.data.augmentation import training_data
from oddetr.data.batches import EpochSampler, Key
from oddetr.data.dataset import DetectionData, Source
from oddetr.data.reading_config import ReadingConfig
from oddetr.data.sources import open_training_sources
from oddetr.data.transforms import AugmentConfig, Example
from oddetr.evaluation.detections import Detections
from oddetr.prediction.drawing import draw_detections
from oddetr.reporting.page import data_url, render
from oddetr.training.config import TrainConfig, chosen
from oddetr.training.plan.choice import Facts, Machine, choose_size_and_length

_DEFAULT = AugmentConfig()
_SIDE = 640
"""Longer side of the pictures on the page, in pixels."""


@dataclass(frozen=True)
class AugmentedPage:
    """The file that `augment` wrote, and how many examples and objects are on it."""

    file: Path
    examples: int
    objects: int


def augment(
    data: Path | str,
    out: Path | str,
    augment: AugmentConfig = _DEFAULT,
    images: int = 16,
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    allow_outside: bool = False,
    ignore_exif: bool = False,
    crowds_as_objects: bool = False,
    skip_broken: bool = False,
    console: Console | None = None,
) -> AugmentedPage:
    """Write a page of training examples with their boxes: the first that `train` with the same options will see.

    Args:
        data: the data set's folder, or `digits`.
        out: the HTML file to write.
        augment: how training images vary.
        images: examples to show, at least 1.
        image_size: shorter side at evaluation, in pixels; default: what training would choose, with a GPU for the
            detector trained on COCO, which is not looked for.
        epochs: of the training; default: likewise. Strong augmentation lasts for a part of them.
        seed: of the training.
        allow_outside: also read what paths and links name outside of the folder; it is refused otherwise.
        ignore_exif: take images as stored, not turned by their EXIF orientation: for boxes that were drawn so.
        crowds_as_objects: learn COCO's crowd regions and VOC's difficult objects like any other.
        skip_broken: leave out images that cannot be read or have annotations that cannot, instead of an error.
        console: where to show progress; None: nowhere.

    Raises:
        DataError: the annotations have errors, or there is nothing to train on.
        ImageError: an image cannot be read.
        ValueError: a value is out of range, or `out` is a folder or a device.
    """
    file = Path(out)
    if images < 1:
        raise ValueError(f"images is {images}; it must be at least 1.")
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is a folder or a device. Give the file to write, for example augmented.html.")
    reading = ReadingConfig(allow_outside, ignore_exif, crowds_as_objects, skip_broken=skip_broken)
    config = TrainConfig(data=str(data), augment=augment, image_size=image_size, epochs=epochs, seed=seed)
    sources, _ = open_training_sources(config.data, config.digits, seed, console, decode=False, reading=reading)
    train = sources["train"]
    config = choose_size_and_length(config, Facts.of_source(train), Machine.this({}))
    size, length = chosen(config.image_size), chosen(config.epochs)
    examples = training_data(train, size, (0.0,) * 3, (1.0,) * 3, augment, length, seed)
    keys = list(islice(_keys(len(train), length, seed), images))
    shown = [(key, examples[key]) for key in keys]
    content = render(
        "augmented.html.jinja",
        data=config.data,
        image_size=size,
        epochs=length,
        strong_epochs=augment.strong_epochs(length),
        seed=seed,
        settings=vars(augment),
        pictures=[_picture(train, key, example) for key, example in shown],
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, content)
    return AugmentedPage(file, len(shown), sum(len(example.labels) for _, example in shown))


def _keys(length: int, epochs: int, seed: int) -> Iterator[Key]:
    """The keys of a training in one process, in order."""
    sampler = EpochSampler(length, seed)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        yield from sampler


def _picture(source: Source, key: Key, example: Example) -> dict[str, Any]:
    """An example, whose pixels are in [0, 1], with its boxes as a data URL."""
    epoch, index = key
    height, width = example.image.shape[1:]
    boxes = cxcywh_to_xyxy(example.boxes).numpy() * np.array([width, height, width, height], np.float32)
    objects = Detections(boxes, np.ones(len(boxes), np.float32), example.labels.numpy())
    pixels = (example.image * 255).round().byte().permute(1, 2, 0).numpy()
    name = source.files[index] if isinstance(source, DetectionData) else f"scene {index}"
    return {
        "name": name,
        "epoch": epoch + 1,
        "objects": len(example.labels),
        "size": (width, height),
        "url": data_url(draw_detections(pixels, objects, source.classes, scores=False), _SIDE),
    }
