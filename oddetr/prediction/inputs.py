"""Inputs of `oddetr predict`: images and videos, given as files, folders and globs."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from oddetr.data.images import EXTENSIONS, ImageError, read_image
from oddetr.prediction.video import VIDEO_EXTENSIONS, VideoError, VideoReader, check_drawable

MAX_NAME = 240
"""Bytes of an output's name: file systems allow 255, with a number and `.png.part` at the end."""


@dataclass(frozen=True)
class Frame:
    """Position of a frame in its video.

    Attributes:
        number: from 0.
        seconds: since the first frame: number / rate.
        rate: frames per second.
    """

    number: int
    seconds: float
    rate: float


@dataclass(frozen=True)
class View:
    """An image, or a frame of a video.

    Attributes:
        file: it was read from.
        image: RGB, upright.
        frame: None where the file is an image.
    """

    file: Path
    image: UInt8[np.ndarray, "height width 3"]
    frame: Frame | None = None


def is_video(file: Path) -> bool:
    """Whether the file has a video's extension."""
    return file.suffix.lower() in VIDEO_EXTENSIONS


def find_files(paths: Iterable[Path | str], without: Path | None = None) -> list[Path]:
    """Lists the images and videos of files, folders (with all below) and globs, in order, each once.

    Args:
        without: the folder of the outputs, left out where it lies inside a folder of `paths`.

    Raises:
        FileNotFoundError: a path has no image or video.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inner = without.resolve() if without and path.resolve() in without.resolve().parents else None
            known = (file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS | VIDEO_EXTENSIONS)
            files = sorted(file for file in known if file.is_file() and inner not in file.resolve().parents)
        elif path.exists():
            files = [path]
        else:
            base = Path(path.anchor) if path.is_absolute() else Path()
            files = sorted(file for file in base.glob(str(path.relative_to(base))) if file.is_file())
        if not files:
            raise FileNotFoundError(
                f"No image at {path}: give an image, a video, a folder with them, or a glob in quotes."
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def unique_names(files: Iterable[Path]) -> dict[Path, str]:
    """Assigns each file a name without extension.

    Names are cut at `MAX_NAME` bytes; then files that share one get a number. No name is all dots, which would be a
    folder's.
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    names: dict[Path, str] = {}
    for file in files:
        stem = _cut(file.stem if file.stem.strip(".") else f"{file.stem}_")
        name, number = stem, numbers.get(stem.casefold(), 1)
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        numbers[stem.casefold()] = number
        taken.add(name.casefold())
        names[file] = name
    return names


def _cut(name: str) -> str:
    """At most the first `MAX_NAME` bytes, in whole characters."""
    while len(os.fsencode(name)) > MAX_NAME:
        name = name[:-1]
    return name


def count_views(files: Iterable[Path]) -> int:
    """Number of views that `read_views` gives, according to the videos' headers; a broken file counts as one."""
    return sum(_length(file) if is_video(file) else 1 for file in files)


def _length(file: Path) -> int:
    try:
        with VideoReader(file) as video:
            return video.length
    except VideoError:
        return 1


def read_views(
    files: Sequence[Path], batch_size: int, unreadable: dict[Path, str], drawn: bool
) -> Iterator[list[View]]:
    """Yields batches of views in order, each of images or of one video's frames.

    Args:
        batch_size: maximum views in a batch.
        unreadable: receives each file that cannot be read, or not to its end, and why.
        drawn: whether pictures are written: then a video of a size that cannot be written counts as unreadable.
    """
    images: list[View] = []
    for file in files:
        if is_video(file):
            if images:
                yield images
            images = []
            yield from _read_frames(file, batch_size, unreadable, drawn)
            continue
        try:
            images.append(View(file, read_image(file)))
        except ImageError as error:
            unreadable[file] = str(error)
        if len(images) == batch_size:
            yield images
            images = []
    if images:
        yield images


def _read_frames(file: Path, batch_size: int, unreadable: dict[Path, str], drawn: bool) -> Iterator[list[View]]:
    try:
        with VideoReader(file) as video:
            batch: list[View] = []
            for number, image in enumerate(video):
                if drawn and number == 0:
                    check_drawable(file, (image.shape[0], image.shape[1]))
                batch.append(View(file, image, Frame(number, number / video.rate, video.rate)))
                if len(batch) == batch_size:
                    yield batch
                    batch = []
            if batch:
                yield batch
    except VideoError as error:
        unreadable[file] = str(error)
