"""A data set that a tiny detector learns in seconds."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

HOSTILE = '<script>alert("1")</script> & "$x$"'
"""The name of the second class, which is code."""


def write_squares(folder: Path, split: str, count: int, seed: int) -> None:
    """Grey images, 64 pixels wide and high, each with a large blue or red rectangle, in COCO's layout."""
    generator = np.random.default_rng(seed)
    (folder / split).mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        pixels = np.full((64, 64, 3), 90, np.uint8)
        width, height = (int(side) for side in generator.integers(30, 50, 2))
        left, top, red = (int(generator.integers(most)) for most in (64 - width, 64 - height, 2))
        pixels[top : top + height, left : left + width] = (250, 60, 0) if red else (0, 60, 250)
        Image.fromarray(pixels).save(folder / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": red + 1, **box})
    categories = [{"id": 1, "name": "blue"}, {"id": 2, "name": HOSTILE}]
    (folder / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
