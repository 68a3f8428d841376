"""Writes tiny data sets in the layouts that exist in the wild."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oddetr.data.doctor.check import CheckReport
from oddetr.data.faults import Fault

CATS = [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "dog", "supercategory": "animal"}]


def write_image(path: Path, width: int = 64, height: int = 48, orientation: int | None = None) -> Path:
    """An image of its own colours (a function of the path), with an EXIF orientation if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(path.as_posix().encode()[-6:], "big")
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def coco_image(id: int, name: str, width: int = 64, height: int = 48) -> dict[str, Any]:
    return {"id": id, "file_name": name, "width": width, "height": height}


def coco_object(
    id: int, image: int, box: Sequence[Any] = (8, 8, 20, 16), category: int = 3, **more: Any
) -> dict[str, Any]:
    return {"id": id, "image_id": image, "bbox": list(box), "category_id": category, "iscrowd": 0} | more


def coco_file(path: Path, images: Any, annotations: Any, categories: Any = CATS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def coco(
    root: Path,
    annotations: Sequence[dict[str, Any]] = (),
    images: Sequence[dict[str, Any]] | None = None,
    categories: Sequence[dict[str, Any]] = CATS,
    written: bool = True,
) -> Path:
    """COCO with a train split (images 1 and 2) of the given annotations, and a sound val split (image 11)."""
    images = [coco_image(1, "a.jpg"), coco_image(2, "b.jpg")] if images is None else images
    coco_file(root / "annotations/instances_train.json", images, [*annotations, coco_object(90, 1)], categories)
    coco_file(root / "annotations/instances_val.json", [coco_image(11, "v.jpg")], [coco_object(91, 11)], categories)
    write_image(root / "val/v.jpg")
    (root / "train").mkdir(exist_ok=True)
    for image in images if written else ():
        write_image(root / "train" / image["file_name"])
    return root


def voc_xml(
    path: Path, objects: Sequence[tuple[str, Sequence[Any]]], width: int = 64, height: int = 48, difficult: bool = False
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = ("xmin", "ymin", "xmax", "ymax")
    body = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>"
        + "".join(f"<{corner}>{value}</{corner}>" for corner, value in zip(corners, box, strict=True))
        + "</bndbox></object>"
        for name, box in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    path.write_text(f"<annotation>{size}{body}</annotation>", encoding="utf-8")
    return path


def voc(
    root: Path, lists: Mapping[str, Sequence[str]], objects: Sequence[tuple[str, Sequence[Any]]] | None = None
) -> Path:
    """Pascal VOC in its own layout; every image has the same objects."""
    for split, names in lists.items():
        path = root / "ImageSets/Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for name in names:
            write_image(root / "JPEGImages" / f"{name}.jpg")
            voc_xml(root / "Annotations" / f"{name}.xml", [("cat", (11, 11, 30, 30))] if objects is None else objects)
    return root


def yolo(root: Path, labels: Mapping[str, str | None], yaml: str | None = None) -> Path:
    """YOLO: image `split/name.jpg` has the label file with this text, or none."""
    (root / "data.yaml").parent.mkdir(parents=True, exist_ok=True)
    yaml = yaml or "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\nnc: 2\n"
    (root / "data.yaml").write_text(yaml, encoding="utf-8")
    for name, text in labels.items():
        write_image(root / "images" / name)
        if text is not None:
            path = (root / "labels" / name).with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return root


def found(report: CheckReport, kind: str) -> list[Fault]:
    """The faults of a kind."""
    return [fault for fault in report.faults if fault.kind == kind]


def only(report: CheckReport, kind: str) -> Fault:
    """The one fault of a kind, after making sure that there is just one."""
    faults = found(report, kind)
    assert len(faults) == 1, report.faults
    return faults[0]
