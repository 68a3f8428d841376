"""COCO's metrics of many images against the usual way, faster-coco-eval's `loadRes` of a results list: time, memory.

python benchmarks/evaluation.py --images 5000 --detections 300

Random objects, and detections of which a tenth lie near one; 80 classes. Both give the same AP but for the digits that
a results list rounds away (asserted). Each runs once, in a process of its own; memory is what it takes on top of the
detections and the truth. The evaluator that both use has threads of its own.
"""

import argparse
import json

import numpy as np
import timing
import torch
from faster_coco_eval import COCO, COCOeval_faster

from oddetr.data.dataset import Annotations, ClassTable
from oddetr.evaluation.coco import evaluate_detections
from oddetr.evaluation.detections import Detections

CLASSES = ClassTable(tuple(f"class {index}" for index in range(80)), tuple(range(1, 81)))
SIDE, OBJECTS = 640, 7
"""Of an image in pixels, and on it."""


def scenes(images: int, found: int) -> tuple[Annotations, dict[int, Detections]]:
    """Images 1, 2, ... and `found` detections on each."""
    random = np.random.default_rng(0)
    boxes = random_boxes(random, images * OBJECTS)
    labels = random.integers(80, size=images * OBJECTS)
    truth = Annotations(
        image_ids=np.arange(1, images + 1),
        sizes=np.full((images, 2), SIDE),
        offsets=np.arange(images + 1) * OBJECTS,
        boxes=boxes,
        labels=labels,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        crowd=np.zeros(len(boxes), bool),
        annotation_ids=np.arange(1, len(boxes) + 1),
    )
    detections: dict[int, Detections] = {}
    for index in range(images):
        near = random.integers(OBJECTS, size=found // 10) + index * OBJECTS
        close = boxes[near] + random.uniform(-3, 3, (len(near), 4)).astype(np.float32)
        others = found - len(near)
        detections[index + 1] = Detections(
            np.concatenate([close, random_boxes(random, others)]),
            random.random(found, np.float32),
            np.concatenate([labels[near], random.integers(80, size=others)]),
        )
    return truth, detections


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """(x0, y0, x1, y1) of sides of 8 to 200 pixels inside the image."""
    corners = random.uniform(0, SIDE - 200, (count, 2))
    return np.concatenate([corners, corners + random.uniform(8, 200, (count, 2))], axis=1).astype(np.float32)


def ours(truth: Annotations, detections: dict[int, Detections]) -> float:
    return evaluate_detections(truth, CLASSES, detections).ap


def their_truth(truth: Annotations) -> COCO:
    content = {
        "images": [{"id": int(image), "height": SIDE, "width": SIDE} for image in truth.image_ids],
        "categories": [
            {"id": identity, "name": name} for identity, name in zip(CLASSES.ids, CLASSES.names, strict=True)
        ],
        "annotations": [
            {
                "id": int(truth.annotation_ids[row]),
                "image_id": row // OBJECTS + 1,
                "category_id": CLASSES.ids[truth.labels[row]],
                "bbox": [float(x0), float(y0), float(x1) - float(x0), float(y1) - float(y0)],
                "area": float(truth.areas[row]),
                "iscrowd": 0,
            }
            for row, (x0, y0, x1, y1) in enumerate(truth.boxes)
        ],
    }
    return COCO(content)


def theirs(truth: COCO, detections: dict[int, Detections]) -> float:
    """As a training loop does it, which has the truth ready: a list of dicts, `loadRes`, evaluate."""
    results = [entry for image, found in detections.items() for entry in found.to_coco(image, CLASSES)]
    evaluator = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *_: None)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return float(evaluator.stats[0])


SIDES = {"ours": (ours, lambda truth: truth), "loadRes": (theirs, their_truth)}
"""What is timed, and what its truth is made of before."""


def main() -> None:
    parser = timing.parser(__doc__, rounds=None)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=300, help="on an image; default: %(default)s")
    parser.add_argument("--of", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.of:
        truth, detections = scenes(arguments.images, arguments.detections)
        evaluate, prepare = SIDES[arguments.of]
        prepared = prepare(truth)
        before, found = timing.peak_gib(), []
        taken = timing.milliseconds(lambda: found.append(evaluate(prepared, detections)))
        print(json.dumps({"ap": found[0], "ms": taken, "gib": timing.peak_gib() - before}))
        return
    mine, usual = (timing.of_another_process("--of", side) for side in SIDES)
    assert abs(mine["ap"] - usual["ap"]) < 1e-3, (mine, usual)
    what = f"evaluation of {arguments.images} images x {arguments.detections} detections"
    row = timing.Row(what, mine["ms"], "loadRes", usual["ms"], ours_gib=mine["gib"], theirs_gib=usual["gib"])
    timing.show([row], arguments.json)


if __name__ == "__main__":
    main()
