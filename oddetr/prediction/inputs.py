"""Inputs of `oddetr predict`: images and videos, given as files, folders and globs."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from oddetr.data.images import ImageError, is_image, read_image
from oddetr.data.reading_config import ReadingConfig
from oddetr.prediction.video import VIDEO_EXTENSIONS, VideoError, VideoReader, check_drawable

MAX_NAME = 240
"""Bytes of an output's name: file systems allow 255, with a number and `.png.part` at the end."""


@dataclass(frozen=True)
class View:
    """An image, or a frame of a video.

    Attributes:
        file: it was read from.
        name: of the outputs, without extension; unique to the file.
        image: RGB, upright.
        frame: its number in the video, from 0; None where the file is an image.
        rate: of the video, in frames per second.
    """

    file: Path
    name: str
    image: UInt8[np.ndarray, "height width 3"]
    frame: int | None = None
    rate: float = 1.0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


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
    paths = list(paths)
    address = next((str(path) for path in paths if "://" in str(path)), None)
    if address is not None:
        raise FileNotFoundError(
            f"{address} is an address, which is not opened. Save it as a file first: a stream with "
            "`ffmpeg -i ADDRESS -t 60 clip.mp4`, an image with a browser."
        )
    for path in map(Path, paths):
        if path.is_dir():
            inner = without.resolve() if without and path.resolve() in without.resolve().parents else None
            known = (file for file in path.rglob("*") if file.is_file() and (is_video(file) or is_image(file)))
            files = sorted(file for file in known if inner not in file.resolve().parents)
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
    """Assigns each file a name without extension: cut at `MAX_NAME` bytes, numbered where files share one, and never
    all dots, which would be a folder's."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    names: dict[Path, str] = {}
    for file in files:
        stem = file.stem if file.stem.strip(".") else f"{file.stem}_"
        while len(os.fsencode(stem)) > MAX_NAME:
            stem = stem[:-1]
        name, number = stem, numbers.get(stem.casefold(), 1)
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        numbers[stem.casefold()] = number
        taken.add(name.casefold())
        names[file] = name
    return names


def count_views(file: Path) -> int:
    """Number of views that `read_views` gives of a file, according to a video's header; a broken file counts as one."""
    try:
        return VideoReader(file).length if is_video(file) else 1
    except VideoError:
        return 1


def read_views(
    names: dict[Path, str], batch_size: int, unreadable: dict[Path, str], drawn: bool, reading: ReadingConfig
) -> Iterator[list[View]]:
    """Yields batches of at most `batch_size` views in order, each of images or of one video's frames.

    Args:
        names: of the outputs of each file.
        unreadable: receives each file that cannot be read, or not to its end, and why.
        drawn: whether pictures are written: then a video of a size that cannot be written counts as unreadable.
        reading: how the detector wants its images read.
    """

    def views_of(files: Iterable[Path]) -> Iterator[View]:
        for file in files:
            try:
                if is_video(file):
                    yield from _frames(file, names[file], drawn)
                else:
                    yield View(file, names[file], read_image(file, reading))
            except (ImageError, VideoError) as error:
                unreadable[file] = str(error)

    for _, files in groupby(names, key=lambda file: file if is_video(file) else None):
        views = views_of(files)
        while batch := list(islice(views, batch_size)):
            yield batch


def _frames(file: Path, name: str, drawn: bool) -> Iterator[View]:
    video = VideoReader(file)
    for number, image in enumerate(video):
        if drawn and number == 0:
            check_drawable(file, *image.shape[:2])
        yield View(file, name, image, number, video.rate)
