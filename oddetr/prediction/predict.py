"""`oddetr predict`: from image and video files to pictures and tables."""

from collections.abc import Sequence
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
from oddetr.prediction.outputs import FORMATS, Format, Pictures, Result, open_outputs, picture_file
from oddetr.prediction.predictor import Predictor
from oddetr.prediction.slicing import detect_sliced
from oddetr.prediction.video import VideoError, opencv
from oddetr.structures import Weights


@dataclass
class PredictionReport:
    """What `predict` did.

    Attributes:
        images: number of processed images.
        frames: number of processed frames of videos.
        objects: number of detections that were written.
        pictures: files of pictures and videos that were written.
        unreadable: files that could not be read, and why; also videos not read to their end, or of a size that cannot
            be written.
    """

    images: int
    frames: int
    objects: int
    pictures: list[Path]
    unreadable: dict[Path, str]

    def count(self, result: Result) -> None:
        """Adds a result to the numbers."""
        self.images += result.view.frame is None
        self.frames += result.view.frame is not None
        self.objects += len(result.detections)


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
    """Detects objects in images and videos, and writes pictures and tables.

    In `out`, by `formats`:

    - pictures: NAME.png of each image, small ones enlarged; NAME.mp4 of each video, of its size and rate, without
      sound (MPEG-4 Part 2: video players show it, browsers do not);
    - coco: detections.json in COCO's layout, with the data set's original class ids; a frame of a video is an image
      with `frame` and `seconds`;
    - csv: detections.csv with file, frame, seconds, class id, class name, score, left, top, width, height, in pixels;
      frame and seconds are empty for images. Names are written unchanged: let a spreadsheet read them as text;
    - yolo: labels/NAME.txt with `class cx cy width height score`, relative to the image, and data.yaml with the names;
      of a video labels/NAME/000000.txt and so on. With the images in images/ it is a data set that oddetr reads.

    Frames are numbered from 0. NAME is the file's, cut where it is too long. Unreadable files are reported and skipped;
    with pictures, so are videos with a side that MPEG-4 cannot hold. An interruption leaves complete files of all
    results until then. Memory holds one batch, and for coco all detections.

    Args:
        checkpoint: a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub.
        paths: images, videos (the `video` extra), folders, globs.
        out: the folder to write to.
        threshold: minimum score, in [0, 1].
        batch_size: images per batch, or frames of a video, or slices of an image.
        weights: the teacher's, which usually score higher and cost nothing more, or the student's.
        classes: detect only these, given as comma-separated names, or original ids where no class has the number as
            its name; default: all.
        top_k: keep the best so many detections of an image; default: the detector's number (100; of DINO 300) of each
            image, or of each slice.
        formats: outputs, comma-separated: pictures, coco, csv, yolo.
        slice: for small objects in large images: detect also in overlapping squares (by a fifth) of this side, in
            pixels. Best is the side with which objects appear to the detector as large as in training: for photos of
            one kind, the shorter side of the training images. Default: none.
        console: shows progress, if it is a terminal; None is silent.

    Raises:
        CheckpointError: there is no checkpoint, it cannot be read, or it does not hold these weights.
        FileNotFoundError: a path has no image or video.
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

    def detect(images: list[UInt8[np.ndarray, "_ _ 3"]]) -> list[Detections]:
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
                for view, found in zip(views, detect([view.image for view in views]), strict=True):
                    result = Result(view, names[view.file], found.clipped(*view.image.shape[:2]))
                    for output in outputs:
                        output.write(result)
                    report.count(result)
                bar.advance(task, len(views))
    except KeyboardInterrupt as stopped:
        message = f"Stopped after {report.images} images and {report.frames} frames; they are in {folder}."
        if console is not None:
            console.print(message, highlight=False, soft_wrap=True)
        raise KeyboardInterrupt(message) from stopped
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
    """Videos to skip where OpenCV is missing, and why; raises `VideoError` where a path names a video itself."""
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
