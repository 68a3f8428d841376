"""What `oddetr predict` writes: pictures and videos, COCO JSON, CSV, and YOLO text files.

Each output takes what was seen one view after the other, and is closed at the end, or where the run is interrupted:
then its files hold what was done. Only COCO's JSON is kept in memory until then.
"""

import csv
import json
from collections.abc import Sequence
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
"""Of the CSV table."""
_MARK = "# written by oddetr predict"


@dataclass(frozen=True)
class Seen:
    """A view and what was found on it.

    Attributes:
        view: the image or frame.
        name: of the file, without extension; no two files share one.
        detections: as they are to be written: above the threshold, inside the image, best first.
    """

    view: View
    name: str
    detections: Detections


@runtime_checkable
class Output(Protocol):
    """Writes what was seen."""

    def write(self, seen: Seen) -> None:
        """Takes the next view."""
        ...

    def close(self) -> None:
        """Finishes the files."""
        ...


def open_outputs(formats: Sequence[Format], folder: Path, classes: ClassTable, side: int | None = None) -> list[Output]:
    """The outputs of the given kinds in `folder`, pictures first, so that what the tables tell of has its picture.

    Args:
        side: of the slices that images were looked at in, in pixels; None: they were not sliced.

    Raises:
        ValueError: `folder` holds a data set's labels, which would be overwritten.
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs: list[Output] = []
    if "yolo" in formats:
        outputs.append(YoloLabels(folder, classes))
    if "pictures" in formats:
        outputs.insert(0, Pictures(folder, classes, side))
    if "coco" in formats:
        outputs.append(CocoJson(folder / "detections.json", classes))
    if "csv" in formats:
        outputs.append(CsvTable(folder / "detections.csv", classes))
    return outputs


class Pictures:
    """NAME.png of each image, small ones enlarged; NAME.mp4 of each video, of its size and rate, without sound.

    Attributes:
        files: what was written so far.
    """

    def __init__(self, folder: Path, classes: ClassTable, side: int | None = None) -> None:
        self.folder, self.classes, self.side = folder, classes, side
        self.files: list[Path] = []
        self._video: VideoWriter | None = None

    def write(self, seen: Seen) -> None:
        """Draws a picture, or the next frame."""
        image, frame = seen.view.image, seen.view.frame
        file = picture_file(self.folder, seen.name, video=frame is not None)
        picture = draw_detections(image, seen.detections, self.classes, enlarge=frame is None, seen=self.side)
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
    """Where the picture of a file is written."""
    return folder / f"{name}{'.mp4' if video else '.png'}"


class CocoJson:
    """COCO's own layout.

    `images` (id, file_name, width, height; of a video's frame also frame and seconds), `categories` (id, name: the data
    set's original ids) and `annotations` (id, image_id, category_id, bbox as left, top, width, height in pixels,
    score).
    """

    def __init__(self, file: Path, classes: ClassTable) -> None:
        self.file, self.classes = file, classes
        self._images: list[dict[str, object]] = []
        self._results: list[CocoResult] = []

    def write(self, seen: Seen) -> None:
        """Keeps it until the end."""
        view, number = seen.view, len(self._images) + 1
        height, width = view.image.shape[:2]
        image: dict[str, object] = {"id": number, "file_name": str(view.file), "height": height, "width": width}
        if view.frame is not None:
            image |= {"frame": view.frame.number, "seconds": round(view.frame.seconds, 6)}
        self._images.append(image)
        self._results += seen.detections.to_coco(number, self.classes)

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
    """A row per detection, under `COLUMNS`; frame and seconds are empty for images, boxes are in pixels.

    As the csv module writes it: names with commas, quotes or newlines are quoted, and nothing is changed. A name that
    begins with = + - or @ stands there as it is: a spreadsheet should read this column as text.
    """

    def __init__(self, file: Path, classes: ClassTable) -> None:
        self.file, self.classes = file, classes
        self._stream = file.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(self._stream)
        self._writer.writerow(COLUMNS)

    def write(self, seen: Seen) -> None:
        """Appends rows."""
        frame = seen.view.frame
        place = (str(seen.view.file), *(("", "") if frame is None else (frame.number, round(frame.seconds, 6))))
        results = seen.detections.to_coco(0, self.classes)
        for label, result in zip(seen.detections.labels.tolist(), results, strict=True):
            name = self.classes.names[label]
            self._writer.writerow((*place, result["category_id"], name, result["score"], *result["bbox"]))
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


class YoloLabels:
    """labels/NAME.txt of each image and labels/NAME/000000.txt of each frame; data.yaml with the names.

    A line is `class cx cy width height score`: the class counts from 0, as data.yaml lists them, and the box is
    relative to the image. With the images beside in images/, under the same names, it is a data set that oddetr reads.

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

    def write(self, seen: Seen) -> None:
        """Writes a text file, empty where nothing was found."""
        frame, (height, width) = seen.view.frame, seen.view.image.shape[:2]
        file = self.labels / (f"{seen.name}.txt" if frame is None else f"{seen.name}/{frame.number:06}.txt")
        file.parent.mkdir(exist_ok=True)
        corners = seen.detections.boxes.astype(np.float64) / [width, height, width, height]
        boxes = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
        rows = zip(seen.detections.labels.tolist(), boxes.tolist(), seen.detections.scores.tolist(), strict=True)
        lines = (f"{label} {' '.join(f'{x:.6f}' for x in (*box, score))}\n" for label, box, score in rows)
        write_file(file, "".join(lines), synced=False)

    def close(self) -> None:
        """All is written already."""
