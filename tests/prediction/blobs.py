"""A predictor that finds bright blobs: exact boxes, without training."""

import numpy as np
import torch
from scipy import ndimage
from sklearn.datasets import load_digits

from oddetr.checkpoints.checkpoint import CheckpointInfo
from oddetr.data.dataset import ClassTable
from oddetr.evaluation.detections import Detections
from oddetr.prediction.predictor import Predictor
from tests.models.helpers import SMALL, hollow

CLASSES = ClassTable(("grey", "white"), (3, 7))


class BlobPredictor(Predictor):
    """Finds grey and white blobs on black; larger ones score higher.

    `detect_calls` holds the (height, width) of the images of each call.
    """

    def detect(
        self, images: list[np.ndarray], top_k: int | None = None, labels: list[int] | None = None
    ) -> list[Detections]:
        detect_calls.append([image.shape[:2] for image in images])
        return [self._blobs(image, top_k, labels) for image in images]

    def _blobs(self, image: np.ndarray, top_k: int | None, wanted: list[int] | None) -> Detections:
        marked, _ = ndimage.label(image[:, :, 0] > 128, np.ones((3, 3)))
        places = ndimage.find_objects(marked)
        boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in places], np.float32).reshape(-1, 4)
        sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        white = np.array([image[place][:, :, 0].max() > 225 for place in places], np.int64)
        found = Detections(boxes, 0.5 + sizes / np.float32(1e5), white)
        return (found if wanted is None else found.take(np.isin(found.labels, wanted))).top(top_k or 100)


detect_calls: list[list[tuple[int, int]]] = []


def blob_predictor() -> BlobPredictor:
    detect_calls.clear()
    info = CheckpointInfo(SMALL, CLASSES, 64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    return BlobPredictor(hollow(), info, torch.device("cpu"))


def scattered(height: int, width: int, step: int = 37) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits, thickened to single blobs, at places of no pattern; and their boxes (x0, y0, x1, y1)."""
    generator = np.random.default_rng(0)
    glyphs = load_digits().images
    canvas, boxes = np.zeros((height, width, 3), np.uint8), []
    for top in range(2, height - step, step):
        for left in range(2, width - step, step):
            glyph = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(glyphs[generator.integers(100)] > 6, 2)))
            marked, _ = ndimage.label(glyph, np.ones((3, 3)))
            glyph = marked == np.bincount(marked.ravel())[1:].argmax() + 1
            y, x = (slice(line.min(), line.max() + 1) for line in np.nonzero(glyph))
            glyph = np.kron(glyph[y, x], np.ones((2, 2), bool))
            y0, x0 = top + generator.integers(8), left + generator.integers(8)
            canvas[y0 : y0 + glyph.shape[0], x0 : x0 + glyph.shape[1]][glyph] = generator.choice([200, 250])
            boxes.append((x0, y0, x0 + glyph.shape[1], y0 + glyph.shape[0]))
    return canvas, np.array(boxes, np.float32)
