"""The data that all contestants share: its copy in YOLO's layout, and the one function that scores them all."""

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from oddetr.boxes import xyxy_to_cxcywh
from oddetr.data.dataset import DetectionData
from oddetr.data.reader import read_data
from oddetr.evaluation.coco import Metrics, evaluate_detections
from oddetr.evaluation.detections import CocoResult, Detections


def read_splits(data: Path | str) -> dict[str, DetectionData]:
    """Train, val (held out if there is none) and test, as oddetr reads them.

    Raises:
        DataError: the data set has errors; ValueError: it has no test split.
    """
    splits = read_data(Path(data), training=True).splits
    if "test" not in splits:
        raise ValueError(f"{data} has no test split, on which the contestants are scored; it has {', '.join(splits)}.")
    return splits


def export_yolo(splits: Mapping[str, DetectionData], folder: Path) -> None:
    """Write data.yaml, images/SPLIT/ID.SUFFIX and labels/SPLIT/ID.txt, and ids.json, the data's ids of classes by name.

    Images are copies, since ultralytics mends JPEGs in place. Regions to ignore are left out.
    """
    for split, source in splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        truth = source.truth
        for index, (image, file) in enumerate(zip(truth.image_ids.tolist(), source.files, strict=True)):
            rows = truth.rows(index)
            learned = ~truth.crowd[rows]
            shares = truth.boxes[rows][learned] / truth.sizes[index][[1, 0, 1, 0]]
            boxes = xyxy_to_cxcywh(torch.from_numpy(shares))
            lines = [
                " ".join(map(str, (label, *box.tolist())))
                for label, box in zip(truth.labels[rows][learned].tolist(), boxes, strict=True)
            ]
            shutil.copyfile(source.root / file, folder / "images" / split / f"{image}{Path(file).suffix}")
            (folder / "labels" / split / f"{image}.txt").write_text("\n".join(lines))
    classes = next(iter(splits.values())).classes
    content = {split: f"images/{split}" for split in splits} | {"names": list(classes.names)}
    (folder / "data.yaml").write_text(json.dumps({"path": str(folder.resolve())} | content))  # JSON is YAML
    (folder / "ids.json").write_text(json.dumps(dict(zip(classes.names, classes.ids, strict=True))))


def score(results: Sequence[CocoResult], test: DetectionData) -> Metrics:
    """oddetr's own evaluation of a COCO results list.

    Raises:
        ValueError: a detection is on an image, or of a class, that the split does not have.
    """
    labels = {id: label for label, id in enumerate(test.classes.ids)}
    if unknown := {row["category_id"] for row in results} - labels.keys():
        raise ValueError(f"There are detections of the class ids {sorted(unknown)}; the data has {sorted(labels)}.")
    by_image: dict[int, list[CocoResult]] = defaultdict(list)
    for row in results:
        by_image[row["image_id"]].append(row)
    found = {image: _detections(rows, labels) for image, rows in by_image.items()}
    return evaluate_detections(test.truth, test.classes, found)


def _detections(rows: Sequence[CocoResult], labels: Mapping[int, int]) -> Detections:
    boxes = np.array([row["bbox"] for row in rows])
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([row["score"] for row in rows], np.float32)
    return Detections(boxes.astype(np.float32), scores, np.array([labels[row["category_id"]] for row in rows]))
