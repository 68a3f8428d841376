"""`oddetr predict`: files in, pictures and tables out."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from oddetr.common.text import shown
from oddetr.data.transforms import LEAST_SIDE
from oddetr.evaluation.detections import Detections
from oddetr.prediction.classes import choose_labels, split_words
from oddetr.prediction.inputs import count_views, find_files, is_video, read_views, unique_names
from oddetr.prediction.outputs import FORMATS, Format, Pictures, Seen, open_outputs, picture_file
from oddetr.prediction.predictor import Predictor
from oddetr.prediction.slicing import detect_sliced
from oddetr.prediction.video import VideoError, opencv
from oddetr.structures import Weights

Look = Callable[[list[UInt8[np.ndarray, "_ _ 3"]]], list[Detections]]


@dataclass
class PredictionReport:
    """What `predict` did.

    Attributes:
        images: that were looked at.
        frames: of videos, that were looked at.
        objects: that were found and written.
        pictures: the files with pictures and videos.
        unreadable: the files that could not be read, or a video not to its end or not be drawn on, and why.
    """

    images: int
    frames: int
    objects: int
    pictures: list[Path]
    unreadable: dict[Path, str]

    def count(self, seen: Seen) -> None:
        """Counts a view."""
        self.images += seen.view.frame is None
        self.frames += seen.view.frame is not None
        self.objects += len(seen.detections)


def predict(
    checkpoint: Path | str,
    paths: str | Path | Sequence[str | Path],
    out: Path | str,
    threshold: float = 0.3,
    batch_size: int = 8,
    weights: Weights = "teacher",
    classes: str | Sequence[str] | None = None,
    top_k: int | None = None,
    formats: str | Sequence[str] = ("pictures", "coco"),
    slice: int | None = None,
    console: Console | None = None,
) -> PredictionReport:
    """Finds objects in images and videos; writes pictures of what was found, and tables.

    In `out`, by `formats`:

    - pictures: NAME.png of each image, small ones enlarged; NAME.mp4 of each video, of its size and rate, without
      sound (MPEG-4 Part 2: video players show it, browsers do not);
    - coco: detections.json in COCO's layout, with the data set's original class ids; a frame of a video is an image
      with `frame` and `seconds`;
    - csv: detections.csv with file, frame, seconds, class id, class name, score, left, top, width, height, in pixels;
      frame and seconds are empty for images. Names stand there as they are: let a spreadsheet read them as text;
    - yolo: labels/NAME.txt with `class cx cy width height score`, relative to the image, and data.yaml with the names;
      of a video labels/NAME/000000.txt and so on. With the images in images/ it is a data set that oddetr reads.

    Frames are numbered from 0. NAME is the file's, its end cut off where it is too long to be written. A file that
    cannot be read is told of and left out; with pictures also a video with a side that MPEG-4 cannot hold. When
    interrupted, what was done until then is on the disk, whole. Memory holds one batch, and for coco all detections.

    Args:
        checkpoint: a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub.
        paths: images, videos (the `video` extra), folders, globs.
        out: the folder to write to.
        threshold: the least score, in [0, 1], of what is written.
        batch_size: images per batch, or frames of a video, or slices of an image.
        weights: the teacher's, which usually score higher and cost nothing more, or the student's.
        classes: look for these alone: names with commas between them, or original ids where no class has the number as
            its name; default: all.
        top_k: at most so many of an image, the best; default: the detector's number (100; of DINO 300), or so many of
            each slice.
        formats: what to write, with commas between: pictures, coco, csv, yolo.
        slice: side in pixels of overlapping squares (a fifth in common) that an image is looked at in, besides as a
            whole; for small objects in large images. Best the side at which objects are as large, in what the detector
            sees, as in training: with photos of one kind, the shorter side of the training images. Default: none.
        console: shows progress, if it is a terminal; None is silent.

    Raises:
        CheckpointError: there is no checkpoint, it cannot be read, or it does not hold these weights.
        FileNotFoundError: a path means no image.
        VideoError: a path is a video, and OpenCV is not installed.
        ValueError: an option is out of its range, a class or format unknown, or a file would be overwritten.
        OSError: `out` cannot be written.
    """
    kinds = _check_options(threshold, batch_size, top_k, slice, split_words(formats))
    folder = Path(out)
    paths = [paths] if isinstance(paths, str | Path) else paths
    files = find_files(paths, without=folder)
    unreadable = _without_opencv(paths, files)
    files = [file for file in files if file not in unreadable]
    predictor = Predictor.load(checkpoint, weights)
    labels = None if classes is None else choose_labels(split_words(classes), predictor.classes)
    names = unique_names(files)
    if "pictures" in kinds:
        _refuse_overwriting(names, folder)

    def look(images: list[UInt8[np.ndarray, "_ _ 3"]]) -> list[Detections]:
        if slice is None:
            return [found.above(threshold) for found in predictor.detect(images, top_k, labels)]
        sliced = (detect_sliced(predictor, image, slice, threshold, labels, batch_size) for image in images)
        return [found if top_k is None else found.top(top_k) for found in sliced]

    outputs = open_outputs(kinds, folder, predictor.classes, slice)
    report = PredictionReport(0, 0, 0, [], unreadable)
    try:
        with ExitStack() as closing, _progress(console) as bar:
            for output in outputs:
                closing.callback(output.close)
            task, without = bar.add_task("", total=(total := count_views(files))), len(unreadable)
            for views in read_views(files, 1 if slice else batch_size, unreadable, drawn="pictures" in kinds):
                bar.update(task, description=shown(views[0].file.name), total=total - len(unreadable) + without)
                for view, found in zip(views, look([view.image for view in views]), strict=True):
                    seen = Seen(view, names[view.file], found.clipped(*view.image.shape[:2]))
                    for output in outputs:
                        output.write(seen)
                    report.count(seen)
                bar.advance(task, len(views))
    except KeyboardInterrupt as stopped:
        told = f"Stopped after {report.images} images and {report.frames} frames; they are in {folder}."
        if console is not None:
            console.print(told, highlight=False, soft_wrap=True)
        raise KeyboardInterrupt(told) from stopped
    report.pictures += [file for output in outputs if isinstance(output, Pictures) for file in output.files]
    return report


def _check_options(
    threshold: float, batch_size: int, top_k: int | None, slice: int | None, formats: Sequence[str]
) -> list[Format]:
    if not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold}; scores lie in [0, 1].")
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}; it must be at least 1.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1.")
    if slice is not None and slice < LEAST_SIDE:
        raise ValueError(f"Slices of {slice} pixels are too small: a side needs {LEAST_SIDE} at least.")
    for word in formats:
        if word not in FORMATS:
            alike = "".join(f" (is it {near}?)" for near in get_close_matches(word, FORMATS, n=1))
            raise ValueError(f"There is no format {word!r}{alike}; there are {', '.join(FORMATS)}.")
    if not formats:
        raise ValueError(f"No format is named; there are {', '.join(FORMATS)}.")
    return [kind for kind in FORMATS if kind in formats]


def _without_opencv(paths: Sequence[str | Path], files: Sequence[Path]) -> dict[Path, str]:
    """The videos that are left out because OpenCV is not installed, and that reason: those that no path names."""
    videos = [file for file in files if is_video(file)]
    try:
        if videos:
            opencv()
    except VideoError as error:
        if any(is_video(Path(path)) for path in paths):
            raise
        return {file: f"{file} is a video. {error}" for file in videos}
    return {}


def _refuse_overwriting(names: dict[Path, str], folder: Path) -> None:
    pictures = {picture_file(folder, name, is_video(file)).resolve() for file, name in names.items()}
    overwritten = pictures & {file.resolve() for file in names}
    if overwritten:
        raise ValueError(f"{min(overwritten)} would be overwritten by its own picture. Give another folder by --out.")


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("left"), TimeRemainingColumn(),
        console=console, transient=True, disable=console is None or not console.is_terminal,
    )  # fmt: skip
