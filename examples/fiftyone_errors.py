"""What a detector misses and invents, to look at in FiftyOne: a split's objects, detections, and how they match.

    pip install fiftyone
    python examples/fiftyone_errors.py runs/mine DIR/val DIR/annotations/instances_val.json

The split is in COCO's layout. The images with most missed objects come first; wrong labels are often among them.
"""

import argparse
from pathlib import Path

import fiftyone as fo

from oddetr import Predictor, read_image


def detect(predictor: Predictor, file: Path, threshold: float) -> fo.Detections:
    """Detections of an image; FiftyOne's boxes are (left, top, width, height) relative to the upright image."""
    pixels = read_image(file, predictor.reading)
    height, width = pixels.shape[:2]
    (found,) = predictor.detect([pixels])
    found = found.above(threshold).clipped(height, width)
    detections = []
    for (x0, y0, x1, y1), score, label in zip(found.boxes.tolist(), found.scores, found.labels, strict=True):
        box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
        name = predictor.classes.names[label]
        detections.append(fo.Detection(label=name, bounding_box=box, confidence=float(score)))
    return fo.Detections(detections=detections)


def load(checkpoint: str, images: str, labels: str, threshold: float) -> fo.DatasetView:
    """The split with detections, compared at IoU 0.5: each is a true or a false one, or an object missed."""
    kind = fo.types.COCODetectionDataset
    dataset = fo.Dataset.from_dir(
        dataset_type=kind, data_path=images, labels_path=labels, label_field="objects", label_types="detections"
    )
    predictor = Predictor.load(checkpoint)
    for sample in dataset.iter_samples(progress=True, autosave=True):
        sample["found"] = detect(predictor, Path(sample.filepath), threshold)
    dataset.evaluate_detections("found", gt_field="objects", eval_key="match").print_report()
    return dataset.sort_by("match_fn", reverse=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "images", "labels"):
        parser.add_argument(name)
    parser.add_argument("--threshold", type=float, default=0.3)
    fo.launch_app(load(**vars(parser.parse_args()))).wait()
