"""Write any source as files in COCO's layout: to look at, or to train other software on."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from oddetr.data.dataset import Annotations, ClassTable, Source


def write_coco(source: Source, out: Path, split: str, count: int | None = None) -> Path:
    """Write `out/<split>/<name>.png` and `out/annotations/instances_<split>.json`; returns the images' folder.

    Args:
        source: what to write (epoch 0).
        split: the name to give it.
        count: how many images, from the first; default: all.

    Raises:
        ValueError: `count` is not in 1 .. the number of images.
    """
    total = len(source) if count is None else count
    if not 1 <= total <= len(source):
        raise ValueError(f"Cannot write {total} images: the source has {len(source)}.")
    folder = out / split
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    for index in range(total):
        sample = source.sample(index)
        names.append(f"{Path(sample.name).stem}.png")
        Image.fromarray(sample.image).save(folder / names[-1])
    write_annotations(source.annotations().take(np.arange(total)), source.classes, names, out, split)
    return folder


def write_annotations(truth: Annotations, classes: ClassTable, names: Sequence[str], out: Path, split: str) -> None:
    """Write `out/annotations/instances_<split>.json`: images of these file names, with their original ids.

    Objects keep their ids if these are unique, else they are numbered from 1.
    """
    images = [
        {"id": id, "file_name": name, "width": width, "height": height}
        for id, name, (height, width) in zip(truth.image_ids.tolist(), names, truth.sizes.tolist(), strict=True)
    ]
    ids = truth.annotation_ids
    ids = ids if len(np.unique(ids)) == len(ids) else np.arange(1, len(ids) + 1)
    fields = (ids, truth.image_ids[truth.owners], truth.boxes, truth.labels, truth.areas, truth.crowd)
    objects = [
        {
            "id": id,
            "image_id": image,
            "category_id": classes.ids[label],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": area,
            "iscrowd": int(crowd),
        }
        for id, image, (x0, y0, x1, y1), label, area, crowd in zip(*(field.tolist() for field in fields), strict=True)
    ]
    categories = [{"id": id, "name": name} for id, name in zip(classes.ids, classes.names, strict=True)]
    file = out / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": objects, "categories": categories}
    file.write_text(json.dumps(content), encoding="utf-8")
