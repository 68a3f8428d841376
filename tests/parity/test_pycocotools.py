"""`evaluate_detections` gives pycocotools' numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from oddetr.data.dataset import Annotations, ClassTable
from oddetr.evaluation.coco import evaluate_detections
from oddetr.evaluation.detections import Detections

CLASSES = ClassTable(names=("ant", "bee", "cat", "dog", "never"), ids=(90, 3, 17, 0, 44))


def random_truth(rng: np.random.Generator, images: int) -> Annotations:
    """Few distinct coordinates, so that overlaps and scores tie; crowds; images and a class without objects."""
    counts = rng.integers(0, 7, images) * (rng.random(images) < 0.8)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    objects = int(offsets[-1])
    start = rng.integers(0, 20, (objects, 2)) * 8
    size = rng.choice([8, 16, 24, 32, 40, 64, 96, 128, 200], (objects, 2))
    return Annotations(
        image_ids=rng.permutation(10_000)[:images].astype(np.int64),
        sizes=np.full((images, 2), 400),
        offsets=offsets,
        boxes=np.concatenate([start, start + size], axis=1).astype(np.float32),
        labels=rng.integers(0, 4, objects),
        areas=(size.prod(axis=1) * rng.choice([0.5, 1.0], objects)).astype(np.float32),
        crowd=rng.random(objects) < 0.15,
        annotation_ids=rng.permutation(100_000)[:objects] + 1,
    )


def random_detections(rng: np.random.Generator, truth: Annotations) -> dict[int, Detections]:
    """Objects found, found twice, moved, called another class, and boxes out of the blue; some images left out."""
    found: dict[int, Detections] = {}
    for index, image_id in enumerate(truth.image_ids.tolist()):
        if rng.random() < 0.15:
            continue
        there = truth.boxes[truth.rows(index)]
        labels = truth.labels[truth.rows(index)]
        again = rng.integers(0, len(there), 2 * len(there)) if len(there) else np.zeros(0, np.int64)
        moved = there[again] + rng.integers(-2, 3, (len(again), 4)) * rng.choice([0, 2, 4])
        called = np.where(rng.random(len(again)) < 0.85, labels[again], rng.integers(0, 5, len(again)))
        start = rng.integers(0, 160, (int(rng.integers(0, 4)), 2))
        noise = np.concatenate([start, start + rng.integers(0, 120, start.shape)], axis=1)
        boxes = np.concatenate([moved, noise]).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        found[image_id] = Detections(
            boxes=boxes,
            scores=(rng.integers(0, 6, len(boxes)) / 5).astype(np.float32),
            labels=np.concatenate([called, rng.integers(0, 5, len(noise))]),
        )
    return found


def xywh(boxes: np.ndarray) -> list[list[float]]:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64).tolist()


def coco_of(truth: Annotations, annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in truth.image_ids.tolist()],
        "annotations": annotations,
        "categories": [{"id": class_id} for class_id in CLASSES.ids],
    }
    coco.createIndex()
    return coco


def oracle(truth: Annotations, detections: dict[int, Detections], max_detections: int) -> COCOeval:
    there = [
        {"id": id_, "image_id": image, "category_id": CLASSES.ids[label], "bbox": box, "area": area, "iscrowd": crowd}
        for id_, image, label, box, area, crowd in zip(
            truth.annotation_ids.tolist(),
            np.repeat(truth.image_ids, np.diff(truth.offsets)).tolist(),
            truth.labels.tolist(),
            xywh(truth.boxes),
            truth.areas.tolist(),
            truth.crowd.astype(int).tolist(),
            strict=True,
        )
    ]
    results = [
        {"image_id": image, "category_id": CLASSES.ids[label], "bbox": box, "score": score}
        for image, found in detections.items()
        for label, box, score in zip(found.labels.tolist(), xywh(found.boxes), found.scores.tolist(), strict=True)
    ]
    coco = coco_of(truth, there)
    evaluator = COCOeval(coco, coco.loadRes(results) if results else coco_of(truth, []), "bbox")
    evaluator.params.maxDets = sorted({1, min(10, max_detections), max_detections})
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def mean(values: np.ndarray) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def assert_equal_to_oracle(truth: Annotations, detections: dict[int, Detections], max_detections: int = 100) -> None:
    ours = evaluate_detections(truth, CLASSES, detections, max_detections).to_json()
    evaluator = oracle(truth, detections, max_detections)
    precision = evaluator.eval["precision"][..., -1]
    per_class = ours.pop("per_class")
    wanted = {
        "AP": mean(precision[..., 0]),
        "AP50": mean(precision[0, ..., 0]),
        "AP75": mean(precision[5, ..., 0]),
        "APs": mean(precision[..., 1]),
        "APm": mean(precision[..., 2]),
        "APl": mean(precision[..., 3]),
        "AR": mean(evaluator.eval["recall"][..., 0, -1]),
    }
    assert ours == pytest.approx(wanted, abs=1e-6)
    columns = [evaluator.params.catIds.index(class_id) for class_id in CLASSES.ids]
    assert list(per_class) == list(CLASSES.names)
    assert list(per_class.values()) == pytest.approx([mean(precision[:, :, k, 0]) for k in columns], abs=1e-6)


@pytest.mark.parametrize(("seed", "max_detections"), [(0, 100), (1, 100), (2, 1), (3, 5)])
def test_random_data_equal_pycocotools(seed: int, max_detections: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images=25)
    assert_equal_to_oracle(truth, random_detections(rng, truth), max_detections)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 6))
def test_small_data_equal_pycocotools(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images)
    assert_equal_to_oracle(truth, random_detections(rng, truth))


def test_no_detections_equal_pycocotools() -> None:
    assert_equal_to_oracle(random_truth(np.random.default_rng(0), images=10), {})


def test_summary_equals_pycocotools_table() -> None:
    rng = np.random.default_rng(7)
    truth = random_truth(rng, images=25)
    detections = random_detections(rng, truth)
    evaluator = oracle(truth, detections, 100)
    evaluator.summarize()
    ours = evaluate_detections(truth, CLASSES, detections)
    printed = [ours.ap, ours.ap50, ours.ap75, ours.ap_small, ours.ap_medium, ours.ap_large, ours.ar]
    assert printed == pytest.approx(evaluator.stats[[0, 1, 2, 3, 4, 5, 8]].tolist(), abs=1e-6)
