"""Write any source as files in COCO's layout: to look at, or to train other software on."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from oddetr.data.dataset import Source


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
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for index in range(total):
        sample = source.sample(index)
        file = f"{Path(sample.name).stem}.png"
        Image.fromarray(sample.image).save(folder / file)
        height, width = sample.image.shape[:2]
        images.append({"id": sample.image_id, "file_name": file, "width": width, "height": height})
        for (x0, y0, x1, y1), label, crowd in zip(sample.boxes.tolist(), sample.labels, sample.crowd, strict=True):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": sample.image_id,
                    "category_id": source.classes.ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": id, "name": name} for id, name in zip(source.classes.ids, source.classes.names, strict=True)]
    annotations = out / "annotations" / f"instances_{split}.json"
    annotations.parent.mkdir(exist_ok=True)
    annotations.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return folder
