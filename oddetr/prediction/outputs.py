"""Outputs of `oddetr predict`: pictures and videos, COCO JSON, CSV, YOLO labels, and pre-annotations.

Each takes the detections on one view after the other (above the threshold, inside the image, best first), and is closed
at the end or on an interruption; its files then hold all until there.
"""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import yaml

from oddetr.common.durable import replacing, write_file
from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import CocoResult, Detections
from oddetr.prediction.drawing import draw_detections
from oddetr.prediction.inputs import View
from oddetr.prediction.preannotations import Cvat, LabelStudio, common_root
from oddetr.prediction.video import VideoWriter

FORMATS = ("pictures", "coco", "csv", "yolo", "labelstudio", "cvat")
"""Of outputs, pictures first: whatever is in a table has its picture."""
COLUMNS = ("file", "frame", "seconds", "class id", "class name", "score", "left", "top", "width", "height")
"""Columns of the CSV table."""
_MARK = "# written by oddetr predict"
"""First line of data.yaml; only such a folder is written over."""


class Pictures:
    """NAME.png of each image, small ones enlarged; NAME.mp4 of each video, of its size and rate, without sound.

    Attributes:
        files: written so far.
    """

    def __init__(self, folder: Path, classes: ClassTable, slice_side: int | None = None) -> None:
        self.folder, self.classes, self.slice_side = folder, classes, slice_side
        self.files: list[Path] = []
        self._video: VideoWriter | None = None

    def write(self, view: View, found: Detections) -> None:
        is_frame = view.frame is not None
        file = picture_file(self.folder, view.name, is_frame)
        picture = draw_detections(view.image, found, self.classes, enlarge=not is_frame, slice_side=self.slice_side)
        if not self.files or self.files[-1] != file:
            self.close()
            self._video = VideoWriter(file, view.rate, view.size) if is_frame else None
            self.files.append(file)
        if self._video is not None:
            self._video.write(np.asarray(picture))
        else:
            with replacing(file, synced=False) as stream:
                picture.save(stream, format="PNG")

    def close(self) -> None:
        if self._video is not None:
            self._video.close()
        self._video = None


def picture_file(folder: Path, name: str, video: bool) -> Path:
    """Path of a file's picture or video."""
    return folder / f"{name}{'.mp4' if video else '.png'}"


class CocoJson:
    """COCO's layout, with scores and the data set's original class ids; images of a video have `frame` and `seconds`.

    All detections are kept in memory until the file is closed.
    """

    def __init__(self, file: Path, classes: ClassTable) -> None:
        self.file, self.classes = file, classes
        self._images: list[dict[str, object]] = []
        self._results: list[CocoResult] = []

    def write(self, view: View, found: Detections) -> None:
        number = len(self._images) + 1
        height, width = view.size
        image: dict[str, object] = {"id": number, "file_name": str(view.file), "height": height, "width": width}
        if view.frame is not None:
            image |= {"frame": view.frame, "seconds": round(view.frame / view.rate, 6)}
        self._images.append(image)
        self._results += found.to_coco(number, self.classes)

    def close(self) -> None:
        classes = zip(self.classes.ids, self.classes.names, strict=True)
        content = {
            "images": self._images,
            "categories": [{"id": category, "name": name} for category, name in classes],
            "annotations": [{"id": number, **result} for number, result in enumerate(self._results, start=1)],
        }
        write_file(self.file, json.dumps(content), synced=False)


class CsvTable:
    """A row of `COLUMNS` for each detection; frame and seconds are empty for images, boxes are in pixels.

    Names are written unchanged, also such as begin with = + - or @: a spreadsheet should read the column as text.
    """

    def __init__(self, file: Path, classes: ClassTable) -> None:
        self.classes = classes
        self._stream = file.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(self._stream)
        self._writer.writerow(COLUMNS)

    def write(self, view: View, found: Detections) -> None:
        place = ("", "") if view.frame is None else (view.frame, round(view.frame / view.rate, 6))
        for label, result in zip(found.labels.tolist(), found.to_coco(0, self.classes), strict=True):
            name = self.classes.names[label]
            self._writer.writerow((view.file, *place, result["category_id"], name, result["score"], *result["bbox"]))
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class YoloLabels:
    """labels/NAME.txt of each image, labels/NAME/000000.txt of each frame, and data.yaml with the class names.

    A line is `class cx cy width height score`, relative to the image. With the images in images/ the folder is a data
    set that `oddetr train` and labelling tools read.

    Raises:
        ValueError: `folder` has labels of another origin.
    """

    def __init__(self, folder: Path, classes: ClassTable) -> None:
        self.labels, table = folder / "labels", folder / "data.yaml"
        ours = table.is_file() and table.read_text("utf-8", errors="replace").startswith(_MARK)
        if not ours and (table.exists() or self.labels.exists()):
            raise ValueError(f"{folder} already has labels of another origin. Give another folder with --out.")
        self.labels.mkdir(exist_ok=True)
        content = {"path": ".", "train": "images", "names": dict(enumerate(classes.names))}
        write_file(table, f"{_MARK}\n{yaml.safe_dump(content, allow_unicode=True, sort_keys=False)}", synced=False)

    def write(self, view: View, found: Detections) -> None:
        """Writes a text file, empty where nothing was found."""
        file = self.labels / (f"{view.name}.txt" if view.frame is None else f"{view.name}/{view.frame:06}.txt")
        file.parent.mkdir(exist_ok=True)
        height, width = view.size
        left, top, right, bottom = found.boxes.astype(np.float64).T / [[width], [height], [width], [height]]
        rows = np.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, found.scores], axis=1)
        lines = [
            f"{label} {' '.join(f'{value:.6f}' for value in row)}\n"
            for label, row in zip(found.labels, rows, strict=True)
        ]
        write_file(file, "".join(lines), synced=False)

    def close(self) -> None:
        """Does nothing: all is written already."""


Output = Pictures | CocoJson | CsvTable | YoloLabels | LabelStudio | Cvat


def open_outputs(
    formats: Sequence[str],
    folder: Path,
    classes: ClassTable,
    files: Sequence[Path],
    version: str,
    slice_side: int | None = None,
) -> list[Output]:
    """Opens outputs of `FORMATS` in `folder`.

    Args:
        files: all that will be written of.
        version: a name of the detector, for `LabelStudio`.
        slice_side: as of `draw_detections`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = common_root(files)
    makers: dict[str, Callable[[], Output]] = {
        "pictures": lambda: Pictures(folder, classes, slice_side),
        "coco": lambda: CocoJson(folder / "detections.json", classes),
        "csv": lambda: CsvTable(folder / "detections.csv", classes),
        "yolo": lambda: YoloLabels(folder, classes),
        "labelstudio": lambda: LabelStudio(folder, classes, root, version),
        "cvat": lambda: Cvat(folder, classes, root),
    }
    return [makers[kind]() for kind in FORMATS if kind in formats]
