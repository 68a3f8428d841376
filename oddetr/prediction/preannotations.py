"""Pre-annotations: what was found, as Label Studio and CVAT import it to be corrected by hand.

Both show an image upright, as its EXIF orientation says, and count boxes and sizes so, as everything here does. Both
find images by path, not by content: paths are written from `root`, the folder that holds all images.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from oddetr.common.durable import write_file
from oddetr.common.text import shown
from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import Detections
from oddetr.prediction.inputs import View

LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio's tasks name files below its document root."""


def common_root(files: Sequence[Path]) -> Path:
    """The absolute folder that holds all of `files`, directly or below."""
    return Path(os.path.commonpath([_absolute(file).parent for file in files]))


def _absolute(file: Path) -> Path:
    return Path(os.path.normpath(file.absolute()))  # a link keeps its own name


def _below(root: Path, file: Path) -> str:
    return _absolute(file).relative_to(root).as_posix()


class LabelStudio:
    """labelstudio.json: a task for each image, with its detections as a prediction; and labelstudio.xml: the labeling
    interface that the names in it belong to.

    A task names its image as Label Studio serves local files when the folder above `root` is its document root. All
    detections are kept in memory until the files are closed.

    Args:
        version: under which Label Studio shows the predictions: the checkpoint.
    """

    def __init__(self, folder: Path, classes: ClassTable, root: Path, version: str) -> None:
        self.folder, self.classes, self.root, self.version = folder, classes, root, version
        self._tasks: list[dict[str, Any]] = []

    def write(self, view: View, found: Detections) -> None:
        address = LOCAL_FILES + quote(_below(self.root.parent, view.file), errors="surrogateescape")
        prediction = as_prediction(found, view.size, self.classes, self.version)
        self._tasks.append({"data": {"image": address}, "predictions": [prediction]})

    def close(self) -> None:
        write_file(self.folder / "labelstudio.json", json.dumps(self._tasks), synced=False)
        write_file(self.folder / "labelstudio.xml", labeling_interface(self.classes), synced=False)


def as_prediction(
    found: Detections,
    size: tuple[int, int],
    classes: ClassTable,
    version: str,
    control: str = "label",
    image: str = "image",
) -> dict[str, Any]:
    """Label Studio's prediction of an image: boxes in per cent of its sides; the score is the mean of theirs, or 0.

    Args:
        size: (height, width) in pixels of the upright image.
        version: under which Label Studio shows the prediction.
        control: the name of the RectangleLabels in the labeling interface.
        image: the name of the Image there.
    """
    height, width = size
    regions: list[dict[str, Any]] = []
    for number, (label, each) in enumerate(zip(found.labels, found.to_coco(0, classes), strict=True)):
        extent = (width, height, width, height)
        sides = (round(100 * side / full, 4) for side, full in zip(each["bbox"], extent, strict=True))
        box = dict(zip(("x", "y", "width", "height"), sides, strict=True))
        regions.append(
            {
                "id": str(number),
                "type": "rectanglelabels",
                "from_name": control,
                "to_name": image,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": box | {"rotation": 0, "rectanglelabels": [shown(classes.names[label])]},
                "score": each["score"],
            }
        )
    mean = sum(region["score"] for region in regions) / max(1, len(regions))
    return {"model_version": version, "score": round(mean, 6), "result": regions}


def labeling_interface(classes: ClassTable) -> str:
    """Label Studio's labeling interface for boxes of these classes: the control `label` on the object `image`."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    control = ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in classes.names:
        ElementTree.SubElement(control, "Label", value=shown(name))
    return _text(view)  # Label Studio's parser refuses an XML declaration


class Cvat:
    """cvat.xml of the images and cvat_NAME.xml of each video, in the format "CVAT 1.1" with images; and
    cvat_labels.json: the labels that the task needs first, in the layout of its Raw view.

    An image is named by its path from `root`, without which CVAT counts images in order; a frame as CVAT names frames
    of a video. Scores are in the attribute `score` of the boxes. All detections are kept in memory until the files are
    closed.
    """

    def __init__(self, folder: Path, classes: ClassTable, root: Path) -> None:
        self.folder, self.classes, self.root = folder, classes, root
        self._images: dict[Path, list[ElementTree.Element]] = {}

    def write(self, view: View, found: Detections) -> None:
        name, file = _below(self.root, view.file), "cvat.xml"
        if view.frame is not None:
            name, file = f"frame_{view.frame:06}", f"cvat_{view.name}.xml"
        images = self._images.setdefault(self.folder / file, [])
        height, width = map(str, view.size)
        image = ElementTree.Element("image", id=str(len(images)), name=shown(name), width=width, height=height)
        for label, each in zip(found.labels, found.to_coco(0, self.classes), strict=True):
            left, top, wide, high = each["bbox"]
            corners = {"xtl": left, "ytl": top, "xbr": left + wide, "ybr": top + high}
            box = ElementTree.SubElement(
                image,
                "box",
                {name: f"{value:.2f}" for name, value in corners.items()},
                label=shown(self.classes.names[label]),
                source="auto",
                occluded="0",
                z_order="0",
            )
            ElementTree.SubElement(box, "attribute", name="score").text = f"{each['score']:.6f}"
        images.append(image)

    def close(self) -> None:
        for file, images in self._images.items():
            root = ElementTree.Element("annotations")
            ElementTree.SubElement(root, "version").text = "1.1"
            task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
            labels = ElementTree.SubElement(task, "labels")
            for name in self.classes.names:
                label = ElementTree.SubElement(labels, "label")
                ElementTree.SubElement(label, "name").text = shown(name)
                attribute = ElementTree.SubElement(ElementTree.SubElement(label, "attributes"), "attribute")
                for part, value in _SCORE.items():
                    ElementTree.SubElement(attribute, part).text = str(value)
            root.extend(images)
            write_file(file, f'<?xml version="1.0" encoding="utf-8"?>\n{_text(root)}', synced=False)
        labels = [{"name": shown(name), "attributes": [_SCORE | {"values": [""]}]} for name in self.classes.names]
        write_file(self.folder / "cvat_labels.json", json.dumps(labels, indent=1), synced=False)


_SCORE: dict[str, Any] = {"name": "score", "mutable": False, "input_type": "text", "default_value": ""}
"""The attribute of a label in which CVAT keeps a score."""


def _text(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return f"{ElementTree.tostring(root, encoding='unicode')}\n"
