"""Outputs of `oddetr predict`: pictures and videos, COCO JSON, CSV, and YOLO text files.

Each takes one result after the other, and is closed at the end or on an interruption; its files then hold all results
until there. Only COCO's JSON is kept in memory until it is closed.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import yaml

from oddetr.common.durable import replacing, write_file
from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import CocoResult, Detections
from oddetr.prediction.drawing import draw_detections
from oddetr.prediction.inputs import View
from oddetr.prediction.video import VideoWriter

Format = Literal["pictures", "coco", "csv", "yolo"]
FORMATS: tuple[Format, ...] = ("pictures", "coco", "csv", "yolo")

COLUMNS = ("file", "frame", "seconds", "class id", "class name", "score", "left", "top", "width", "height")
"""Columns of the CSV table."""
_MARK = "# written by oddetr predict"


@dataclass(frozen=True)
class Result:
    """The detections on one view.

    Attributes:
        view: the image or frame.
        name: of the outputs, without extension; unique to the file.
        detections: above the threshold, inside the image, best first.
    """

    view: View
    name: str
    detections: Detections


@runtime_checkable
class Output(Protocol):
    """Writes results of one format."""

    def write(self, result: Result) -> None:
        """Adds the next result."""
        ...

    def close(self) -> None:
        """Finishes the files."""
        ...


def open_outputs(
    formats: Sequence[Format], folder: Path, classes: ClassTable, slice_side: int | None = None
) -> list[Output]:
    """Opens outputs in `folder`, pictures first: whatever is in a table has its picture.

    Args:
        slice_side: side of the slices that the detector saw, in pixels; None: whole images.

    Raises:
        ValueError: `folder` holds a data set's labels, which would be overwritten.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[Format, Callable[[], Output]] = {
        "pictures": lambda: Pictures(folder, classes, slice_side),
        "yolo": lambda: YoloLabels(folder, classes),
        "coco": lambda: CocoJson(folder / "detections.json", classes),
        "csv": lambda: CsvTable(folder / "detections.csv", classes),
    }
    return [make() for kind, make in makers.items() if kind in formats]


class Pictures:
    """NAME.png of each image, small ones enlarged; NAME.mp4 of each video, of its size and rate, without sound.

    Attributes:
        files: written so far.
    """

    def __init__(self, folder: Path, classes: ClassTable, slice_side: int | None = None) -> None:
        self.folder, self.classes, self.slice_side = folder, classes, slice_side
        self.files: list[Path] = []
        self._video: VideoWriter | None = None

    def write(self, result: Result) -> None:
        """Draws a picture, or the next frame."""
        image, frame = result.view.image, result.view.frame
        file = picture_file(self.folder, result.name, video=frame is not None)
        picture = draw_detections(
            image, result.detections, self.classes, enlarge=frame is None, slice_side=self.slice_side
        )
        if not self.files or self.files[-1] != file:
            self.close()
            if frame is not None:
                self._video = VideoWriter(file, frame.rate, (image.shape[0], image.shape[1]))
            self.files.append(file)
        if self._video is not None:
            self._video.write(np.asarray(picture))
            return
        with replacing(file, synced=False) as stream:
            picture.save(stream, format="PNG")

    def close(self) -> None:
        """Finishes the video."""
        if self._video is not None:
            self._video.close()
        self._video = None


def picture_file(folder: Path, name: str, video: bool) -> Path:
    """Path of a file's picture or video."""
    return folder / f"{name}{'.mp4' if video else '.png'}"


class CocoJson:
    """COCO's layout.

    `images` (id, file_name, width, height; of a video's frame also frame and seconds), `categories` (id, name: the data
    set's original ids) and `annotations` (id, image_id, category_id, bbox as left, top, width, height in pixels,
    score).
    """

    def __init__(self, file: Path, classes: ClassTable) -> None:
        self.file, self.classes = file, classes
        self._images: list[dict[str, object]] = []
        self._results: list[CocoResult] = []

    def write(self, result: Result) -> None:
        """Keeps the result in memory."""
        view, number = result.view, len(self._images) + 1
        height, width = view.image.shape[:2]
        image: dict[str, object] = {"id": number, "file_name": str(view.file), "height": height, "width": width}
        if view.frame is not None:
            image |= {"frame": view.frame.number, "seconds": round(view.frame.seconds, 6)}
        self._images.append(image)
        self._results += result.detections.to_coco(number, self.classes)

    def close(self) -> None:
        """Writes the file."""
        classes = zip(self.classes.ids, self.classes.names, strict=True)
        content = {
            "images": self._images,
            "categories": [{"id": category, "name": name} for category, name in classes],
            "annotations": [{"id": number, **result} for number, result in enumerate(self._results, start=1)],
        }
        write_file(self.file, json.dumps(content), synced=False)


class CsvTable:
    """A row of `COLUMNS` for each detection; frame and seconds are empty for images, boxes are in pixels.

    Names are written unchanged, quoted as the csv module does. One that begins with = + - or @ stays so: a spreadsheet
    should read the column as text.
    """

    def __init__(self, file: Path, classes: ClassTable) -> None:
        self.file, self.classes = file, classes
        self._stream = file.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(self._stream)
        self._writer.writerow(COLUMNS)

    def write(self, result: Result) -> None:
        """Appends a row for each detection."""
        frame = result.view.frame
        place = (str(result.view.file), *(("", "") if frame is None else (frame.number, round(frame.seconds, 6))))
        results = result.detections.to_coco(0, self.classes)
        for label, found in zip(result.detections.labels.tolist(), results, strict=True):
            name = self.classes.names[label]
            self._writer.writerow((*place, found["category_id"], name, found["score"], *found["bbox"]))
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


class YoloLabels:
    """labels/NAME.txt of each image, labels/NAME/000000.txt of each frame, and data.yaml with the names.

    A line is `class cx cy width height score`: the label, 0..K-1 in data.yaml's order, and the box relative to the
    image. With the images in images/, under the same names, the folder is a data set that oddetr reads.

    Raises:
        ValueError: `folder` holds labels that oddetr predict did not write.
    """

    def __init__(self, folder: Path, classes: ClassTable) -> None:
        self.labels, table = folder / "labels", folder / "data.yaml"
        ours = table.is_file() and table.read_text(encoding="utf-8", errors="replace").startswith(_MARK)
        if not ours and (table.exists() or self.labels.exists()):
            raise ValueError(
                f"{folder} holds {'data.yaml' if table.exists() else 'labels'}, which oddetr predict did not write and "
                "would overwrite. Give another folder by --out."
            )
        self.labels.mkdir(exist_ok=True)
        content = {"path": ".", "train": "images", "names": dict(enumerate(classes.names))}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        write_file(table, f"{_MARK}\n{text}", synced=False)

    def write(self, result: Result) -> None:
        """Writes a text file, empty where nothing was found."""
        frame, (height, width) = result.view.frame, result.view.image.shape[:2]
        file = self.labels / (f"{result.name}.txt" if frame is None else f"{result.name}/{frame.number:06}.txt")
        file.parent.mkdir(exist_ok=True)
        corners = result.detections.boxes.astype(np.float64) / [width, height, width, height]
        boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
        rows = zip(result.detections.labels.tolist(), boxes.tolist(), result.detections.scores.tolist(), strict=True)
        lines = (f"{label} {' '.join(f'{x:.6f}' for x in (*box, score))}\n" for label, box, score in rows)
        write_file(file, "".join(lines), synced=False)

    def close(self) -> None:
        """Does nothing: all is written already."""
