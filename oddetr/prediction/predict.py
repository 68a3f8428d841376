"""`oddetr predict`: from image and video files to pictures and tables."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from oddetr.common.terminal import print_line
from oddetr.common.text import shown
from oddetr.data.transforms import LEAST_SIDE
from oddetr.evaluation.detections import Detections
from oddetr.prediction.classes import choose_labels, split_words
from oddetr.prediction.inputs import View, count_views, find_files, is_video, read_views, unique_names
from oddetr.prediction.onnx_predictor import Runtime, open_predictor
from oddetr.prediction.outputs import FORMATS, Pictures, open_outputs, picture_file
from oddetr.prediction.slicing import detect_sliced
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

    images: int = 0
    frames: int = 0
    objects: int = 0
    pictures: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)

    def count(self, view: View, found: Detections) -> None:
        """Add a view to the numbers."""
        self.images += view.frame is None
        self.frames += view.frame is not None
        self.objects += len(found)


def predict(
    checkpoint: Path | str,
    paths: str | Path | Sequence[str | Path],
    out: Path | str,
    threshold: float | None = None,
    batch_size: int = 8,
    weights: Weights = "teacher",
    classes: str | Sequence[str] | None = None,
    top_k: int | None = None,
    formats: str | Sequence[str] = ("pictures", "coco"),
    slice: int | None = None,
    runtime: Runtime = "auto",
    console: Console | None = None,
) -> PredictionReport:
    """Detects objects in images and videos, and writes pictures and tables.

    In `out`, by `formats`:

    - pictures: NAME.png of each image, small ones enlarged; NAME.mp4 of each video, of its size and rate, without
      sound (MPEG-4 Part 2: video players show it, browsers do not);
    - coco: detections.json in COCO's layout, with the data set's original class ids; a frame of a video is an image
      with `frame` (from 0) and `seconds`;
    - csv: detections.csv with file, frame, seconds, class id, class name, score, left, top, width, height, in pixels;
    - yolo: labels/ with `class cx cy width height score`, relative to the image, and data.yaml;
    - labelstudio: labelstudio.json, tasks with predictions, and labelstudio.xml, their labeling interface; of images;
    - cvat: cvat.xml of the images, cvat_NAME.xml of each video ("CVAT 1.1"), and cvat_labels.json, the task's labels.

    Unreadable files are reported and skipped; with pictures, so are videos with a side that MPEG-4 cannot hold. An
    interruption leaves complete files of all results until then. Memory holds one batch, and for coco, labelstudio and
    cvat all detections.

    Args:
        checkpoint: a run's folder (its best), a checkpoint in it, or hf:user/name on the Hub; or a file, NAME.onnx,
            that `oddetr export` wrote.
        paths: images, videos (the `video` extra), folders, globs.
        out: the folder to write to.
        threshold: minimum score, in [0, 1]; default: of each class the one with the best F1 on the validation images,
            which the teacher's checkpoints hold, else 0.3.
        batch_size: images per batch, or frames of a video, or slices of an image.
        weights: the teacher's, which usually score higher and cost nothing more, or the student's.
        classes: detect only these, given as comma-separated names, or original ids where no class has the number as
            its name; default: all.
        top_k: keep the best so many detections of an image; default: the detector's number (100; of DINO 300) of each
            image, or of each slice.
        formats: outputs, comma-separated: pictures, coco, csv, yolo, labelstudio, cvat.
        slice: for small objects in large images: detect also in overlapping squares of this side, in pixels. Best is
            the side with which objects appear to the detector as large as in training. Default: that of the training;
            0: whole images only.
        runtime: torch for a checkpoint, or onnx for an exported file, in ONNX Runtime on the CPU: faster for one image
            at a time there; auto: by the name.
        console: shows progress, if it is a terminal; None is silent.

    Raises:
        CheckpointError: there is no checkpoint, it cannot be read, or it does not hold these weights.
        ExportError: the exported file cannot be read, or ONNX Runtime is not installed.
        FileNotFoundError: a path has no image or video.
        ValueError: an option is out of its range, a class or format unknown, or a file would be overwritten.
        OSError: `out` cannot be written.
    """
    kinds, folder, console = split_words(formats), Path(out), console or Console(quiet=True)
    _check_options(threshold, batch_size, top_k, slice, kinds)
    names = _find_named(paths, folder, kinds)
    predictor = open_predictor(checkpoint, weights, runtime)
    least = predictor.thresholds if threshold is None else threshold
    labels = None if classes is None else choose_labels(split_words(classes), predictor.classes)
    slice = predictor.slice if slice is None else slice

    def detect(images: list[UInt8[np.ndarray, "_ _ 3"]]) -> list[Detections]:
        if not slice:
            return [found.above(least) for found in predictor.detect(images, top_k, labels)]
        sliced = (detect_sliced(predictor, image, slice, least, labels, batch_size) for image in images)
        return [found if top_k is None else found.top(top_k) for found in sliced]

    report = PredictionReport()
    outputs = open_outputs(kinds, folder, predictor.classes, list(names), f"{checkpoint} ({weights})", slice or None)
    try:
        with ExitStack() as closing, _progress(console) as bar:
            for output in outputs:
                closing.callback(output.close)
            task = bar.add_task("", total=sum(map(count_views, names)))
            at_once = 1 if slice else batch_size
            for views in read_views(names, at_once, report.unreadable, "pictures" in kinds, predictor.reading):
                bar.update(task, description=escape(shown(views[0].file.name)))
                for view, found in zip(views, detect([view.image for view in views]), strict=True):
                    found = found.clipped(*view.size)
                    for output in outputs:
                        output.write(view, found)
                    report.count(view, found)
                bar.advance(task, len(views))
    except KeyboardInterrupt as stopped:
        message = f"Stopped after {report.images} images and {report.frames} frames; they are in {folder}."
        print_line(console, message)
        raise KeyboardInterrupt(message) from stopped
    report.pictures += [file for output in outputs if isinstance(output, Pictures) for file in output.files]
    return report


def _progress(console: Console) -> Progress:
    """A bar on a terminal; silent elsewhere."""
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def _check_options(
    threshold: float | None, batch_size: int, top_k: int | None, slice: int | None, formats: list[str]
) -> None:
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold}; scores lie in [0, 1].")
    side = slice or None
    for name, value, least in (("batch_size", batch_size, 1), ("top_k", top_k, 1), ("slice", side, LEAST_SIDE)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
    unknown = [word for word in formats if word not in FORMATS]
    if unknown or not formats:
        found = f"There is no format {unknown[0]!r}" if unknown else "No format is named"
        raise ValueError(f"{found}; there are {', '.join(FORMATS)}.")


def _find_named(paths: str | Path | Sequence[str | Path], folder: Path, formats: list[str]) -> dict[Path, str]:
    """The files with the names of their results; raises ValueError where an output cannot take them."""
    names = unique_names(find_files([paths] if isinstance(paths, str | Path) else paths, without=folder))
    pictures = {picture_file(folder, name, is_video(file)).resolve() for file, name in names.items()}
    overwritten = pictures & {file.resolve() for file in names}
    if "pictures" in formats and overwritten:
        raise ValueError(f"{min(overwritten)} would be overwritten by its own picture. Give another folder by --out.")
    video = next(filter(is_video, names), None)
    if "labelstudio" in formats and video is not None:
        raise ValueError(
            f"{video} is a video, and pre-annotations for Label Studio are of images. Leave labelstudio out of "
            f"--formats, or save its frames first: ffmpeg -i {video.name} frames/%06d.png"
        )
    return names
