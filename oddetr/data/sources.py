"""Open data by name: a folder of files, or the built-in digit scenes."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from oddetr.data.dataset import Source
from oddetr.data.digits import DigitScenes
from oddetr.data.doctor.check import load_data
from oddetr.data.reader import read_data
from oddetr.data.reading_config import AS_USUAL, ReadingConfig

DIGITS = "digits"


@dataclass(frozen=True)
class DigitsConfig:
    """The built-in set's training scenes; validation and test scenes are fixed.

    Attributes:
        train_images: scenes of an epoch.
        fresh: other scenes in every epoch.

    Raises:
        ValueError: there is no training scene.
    """

    train_images: int = 3000
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.train_images < 1:
            raise ValueError(f"digits.train_images is {self.train_images}; it must be at least 1.")


def open_sources(
    data: str, digits: DigitsConfig | None = None, seed: int = 0, reading: ReadingConfig = AS_USUAL
) -> dict[str, Source]:
    """The splits (train, val and, if there is one, test) of `data`: `digits`, or a data set's folder or file.

    Images are not opened before they are needed.

    Args:
        digits, seed: of the training scenes, for `digits`.

    Raises:
        DataError: the annotations have errors, or there is no data set of a known format.
    """
    if data == DIGITS:
        digits = digits or DigitsConfig()
        train = DigitScenes("train", digits.train_images, seed=seed, fresh=digits.fresh)
        return {"train": train, "val": DigitScenes("val"), "test": DigitScenes("test")}
    folder = load_data(Path(data), reading=reading) if reading.skip_broken else read_data(Path(data), reading=reading)
    return dict(folder.splits)


def open_training_sources(
    data: str,
    digits: DigitsConfig,
    seed: int,
    console: Console | None = None,
    decode: bool = True,
    reading: ReadingConfig = AS_USUAL,
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """`open_sources` for training, which needs train and val with objects; and notes on the data, in sentences.

    Args:
        data, digits, seed, reading: see `open_sources`.
        console: shows progress; None is silent.
        decode: decode every image first; of several processes, one is enough to do so, unless broken images are
            skipped.

    Raises:
        DataError: annotations or images have errors, or there is nothing to train on or to validate with.
    """
    if data == DIGITS:
        notes = ("The built-in digit scenes. (--data DIR trains on your own images.)",)
        return open_sources(data, digits, seed), notes
    if decode or reading.skip_broken:
        folder = load_data(Path(data), console, reading)
    else:
        folder = read_data(Path(data), console, training=True, reading=reading)
    return dict(folder.splits), folder.notes
